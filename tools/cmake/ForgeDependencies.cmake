# Everything forge needs, found or asked for by its Debian name. None of it is part of the
# interface: users of libforge-serve need a C++20 compiler and nothing else.

function(forge_missing what package)
  message(FATAL_ERROR "forge needs ${what}, which was not found.\n"
                      "Run tools/quickstart (it installs what is missing on Debian 12), "
                      "or: apt-get install ${package}")
endfunction()

# forge_find(<cmake package> <Debian package> [find_package arguments...])
macro(forge_find name package)
  find_package(${name} ${ARGN} QUIET)
  if(NOT ${name}_FOUND)
    forge_missing("${name}" "${package}")
  endif()
endmacro()

# forge_find_header(<target> <header> <Debian package>) makes an imported header-only target.
function(forge_find_header target header package)
  find_path(FORGE_${target}_INCLUDE_DIR ${header})
  mark_as_advanced(FORGE_${target}_INCLUDE_DIR)
  if(NOT FORGE_${target}_INCLUDE_DIR)
    forge_missing("<${header}>" "${package}")
  endif()
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} SYSTEM INTERFACE "${FORGE_${target}_INCLUDE_DIR}")
endfunction()

find_package(Threads REQUIRED)
forge_find(Boost libboost-dev 1.74)               # Boost.Interprocess
forge_find(msgpack libmsgpack-cxx-dev 4.1)        # the wire form
forge_find_header(concurrentqueue concurrentqueue/concurrentqueue.h libconcurrentqueue-dev)
forge_find(Eigen3 libeigen3-dev 3.4)              # matrix products of the digits plugin
forge_find(CLI11 libcli11-dev)                    # command lines of forge-bench and digits-train
forge_find(nlohmann_json nlohmann-json3-dev)      # metrics and forge-bench's reports
forge_find_header(spdlog_headers spdlog/spdlog.h libspdlog-dev)  # the log; with fmt, headers only

add_library(forge_dependencies INTERFACE)
target_link_libraries(forge_dependencies INTERFACE
    Boost::headers msgpackc-cxx concurrentqueue nlohmann_json::nlohmann_json spdlog_headers)

if(FORGE_BUILD_MICROBENCH)
  forge_find(benchmark libbenchmark-dev)          # micro-benchmarks
endif()
if(FORGE_BUILD_TESTS)
  forge_find(GTest "libgtest-dev libgmock-dev")
  if(NOT TARGET GTest::gmock_main)
    forge_missing("GoogleMock" "libgmock-dev")
  endif()
  forge_find_header(relacy relacy/relacy.hpp relacy-dev)  # the model checker for shm/ring.h
  find_package(Python3 COMPONENTS Interpreter QUIET)
  if(NOT Python3_FOUND)
    forge_missing("python3" "python3")
  endif()
endif()

if(NOT FORGE_PROMETHEUS STREQUAL "OFF")
  find_package(prometheus-cpp CONFIG QUIET)       # metrics over HTTP
  if(prometheus-cpp_FOUND)
    set(FORGE_BUILD_PROMETHEUS ON)
  elseif(FORGE_PROMETHEUS STREQUAL "AUTO")
    message(STATUS "forge: no prometheus-cpp, building without metrics over HTTP")
  else()
    forge_missing("prometheus-cpp" "prometheus-cpp-dev")
  endif()
endif()

if(NOT FORGE_CUDA STREQUAL "OFF")
  find_package(CUDAToolkit QUIET)
  if(CUDAToolkit_FOUND)
    message(STATUS "forge: CUDA ${CUDAToolkit_VERSION} found")
    # Sanitizers and fuzzers look at the host's code; what has CUDA in it is left out there.
    if(NOT FORGE_SANITIZE AND NOT FORGE_FUZZ)
      if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
        set(ENV{CUDACXX} "${CUDAToolkit_NVCC_EXECUTABLE}")
      endif()
      include(CheckLanguage)
      check_language(CUDA)
      if(CMAKE_CUDA_COMPILER AND CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.0)  # C++20
        set(FORGE_BUILD_CUDA ON)
        if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)  # newer devices compile the last one's PTX at start
          set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual)
        endif()
        enable_language(CUDA)
        if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know it
          set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
          set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
        endif()
        set(CMAKE_CUDA_STANDARD 20)
      elseif(FORGE_CUDA STREQUAL "AUTO")
        message(STATUS "forge: its compiler does not work or is older than 12.0, "
                       "building for the host only")
      else()
        message(FATAL_ERROR "FORGE_CUDA=ON, but the CUDA compiler does not work or is older than "
                            "12.0. Install a newer toolkit, or use FORGE_CUDA=OFF")
      endif()
    endif()
  elseif(FORGE_CUDA STREQUAL "AUTO")
    message(STATUS "forge: no CUDA toolkit, building for the host only")
  else()
    message(FATAL_ERROR "FORGE_CUDA=ON, but no CUDA toolkit was found. Install it, point "
                        "CUDAToolkit_ROOT at it, or use FORGE_CUDA=OFF")
  endif()
endif()
