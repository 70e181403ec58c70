# Language level, compiler flags and where things are put. Included once, by the root.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g")

# Programs and plugins in bin/, libraries in lib/: the build tree has the shape of an installation,
# so the library finds its worker at ../bin/forge-worker without being told.
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib")
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib")
set(FORGE_PLUGIN_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")

# Installed programs find the library relative to themselves, so a prefix can be moved.
set(FORGE_WORKER_INSTALL_DIR "${CMAKE_INSTALL_LIBEXECDIR}/forge")
set(FORGE_WORKER_INSTALL_RPATH "$ORIGIN/../../${CMAKE_INSTALL_LIBDIR}")
set(CMAKE_INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")

# nvcc hands warnings on to the host's compiler; what it generates itself is not pedantic.
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wnon-virtual-dtor>"
                    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wshadow>")
if(FORGE_WERROR)
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-Werror>"
                      "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>")
endif()

if(FORGE_SANITIZE)
  string(REPLACE ";" "," sanitizers "${FORGE_SANITIZE}")
  add_compile_options(-fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer
                      -g1)  # enough for traces with lines
  add_link_options(-fsanitize=${sanitizers})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND "thread" IN_LIST FORGE_SANITIZE)
    add_compile_options(-Wno-tsan)  # g++ cannot model std::atomic_thread_fence
  endif()
  if("undefined" IN_LIST FORGE_SANITIZE)
    # Its check needs a free descriptor, and some tests leave none; ASan sees dead objects as well.
    add_compile_options(-fno-sanitize=vptr)
  endif()
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang" AND "undefined" IN_LIST FORGE_SANITIZE)
    add_compile_options(-fno-sanitize=function)  # clang 14 cannot give it to coroutines
  endif()
  message(STATUS "forge: sanitizers ${sanitizers}")
endif()

if(FORGE_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "FORGE_FUZZ needs clang: use `cmake --preset fuzz`")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

if(FORGE_FAILPOINTS)
  add_compile_definitions(FORGE_FAILPOINTS=1)
endif()
