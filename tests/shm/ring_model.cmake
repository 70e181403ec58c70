# forge_ring_model(<source>): the ring under Relacy, once as shipped and once with each of its four
# memory orders weakened, where Relacy must find the data race. Not with sanitizers: Relacy's fibers
# switch stacks by longjmp.
function(forge_ring_model source)
  if(FORGE_SANITIZE OR FORGE_FUZZ)
    return()
  endif()
  if(NOT TARGET relacy)
    forge_missing("<relacy/relacy.hpp>" relacy-dev)
  endif()
  add_executable(ring_model_test ${source})
  target_include_directories(ring_model_test PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(ring_model_test PRIVATE relacy)
  target_compile_options(ring_model_test PRIVATE -O2)  # the search takes half a minute without

  add_test(NAME ring_model COMMAND ring_model_test)
  set_tests_properties(ring_model PROPERTIES TIMEOUT 120 LABELS model)
  foreach(order IN ITEMS tail-store tail-load head-store head-load)
    string(REPLACE "-" "_" name "ring_model_weakened_${order}")
    add_test(NAME ${name} COMMAND ring_model_test --weaken ${order})
    # Stricter than WILL_FAIL: it must fail for this reason, and not because it does not run.
    set_tests_properties(${name} PROPERTIES PASS_REGULAR_EXPRESSION "DATA RACE" LABELS model)
  endforeach()
endfunction()
