# Run at every build: writes git_version.h, but only when the commit has changed.
#   cmake -DSOURCE=<repository> -DHEADER=<file> -P git_version.cmake
set(version "unknown")
execute_process(COMMAND git -C "${SOURCE}" rev-parse --short=12 HEAD
                OUTPUT_VARIABLE hash OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
                RESULT_VARIABLE failed)
if(NOT failed)
  set(version "${hash}")
  execute_process(COMMAND git -C "${SOURCE}" status --porcelain --untracked-files=no
                  OUTPUT_VARIABLE changes ERROR_QUIET)
  if(changes)
    string(APPEND version "-dirty")
  endif()
endif()
file(CONFIGURE OUTPUT "${HEADER}" CONTENT "#define FORGE_BENCH_GIT \"${version}\"\n")
