# forge_fuzz(<name> SOURCES <file>... [LIBRARIES <target>...])
#
# A libFuzzer target. The sources define LLVMFuzzerTestOneInput; its seeds lie in corpus/<name>.
# With FORGE_FUZZ it becomes bin/<name>_fuzz, which the test fuzz_<name> runs for a few seconds.
# Without, fuzz_<name> is an ordinary test whose main is in FORGE_FUZZ_MAIN: every seed, and random
# mutations of them.
function(forge_fuzz name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBRARIES")
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_SOURCES)
    message(FATAL_ERROR "forge_fuzz(${name}): needs SOURCES; not understood: "
                        "'${arg_UNPARSED_ARGUMENTS}'")
  endif()
  set(corpus "${CMAKE_CURRENT_SOURCE_DIR}/corpus/${name}")
  if(NOT FORGE_FUZZ)
    forge_test(fuzz_${name} SOURCES ${arg_SOURCES} ${FORGE_FUZZ_MAIN}
               LIBRARIES ${arg_LIBRARIES} LABELS no_tsan OWN_MAIN)
    if(TARGET fuzz_${name}_test)
      target_compile_definitions(fuzz_${name}_test PRIVATE FORGE_CORPUS="${corpus}")
    endif()
    return()
  endif()
  add_executable(${name}_fuzz ${arg_SOURCES})
  target_link_libraries(${name}_fuzz PRIVATE forge_internal ${arg_LIBRARIES})
  target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
  set(found "${CMAKE_CURRENT_BINARY_DIR}/found/${name}")  # new inputs go to the first folder
  file(MAKE_DIRECTORY "${found}")
  add_test(NAME fuzz_${name} COMMAND ${name}_fuzz -max_total_time=5 -timeout=10 -malloc_limit_mb=64
                                     "-artifact_prefix=${found}-" "${found}" "${corpus}")
  set_tests_properties(fuzz_${name} PROPERTIES TIMEOUT 120)
endfunction()
