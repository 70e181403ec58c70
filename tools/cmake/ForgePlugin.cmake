# forge_add_plugin(<name> <source>...)
#
# Builds lib<name>.so, a plugin that forge workers load. <name> is also the CMake target, so more
# can be linked to it. Honoured where set:
#   FORGE_PLUGIN_OUTPUT_DIRECTORY   where the file is built (default: the current binary folder)
#   FORGE_PLUGIN_INSTALL_DIR        where it is installed (default: not at all)
function(forge_add_plugin name)
  if(NOT ARGN)
    message(FATAL_ERROR "forge_add_plugin(${name}): give at least one source")
  endif()
  add_library(${name} MODULE ${ARGN})
  target_link_libraries(${name} PRIVATE forge::forge)
  target_compile_features(${name} PRIVATE cxx_std_20)
  set_target_properties(${name} PROPERTIES PREFIX "lib" SUFFIX ".so")
  if(FORGE_PLUGIN_OUTPUT_DIRECTORY)
    set_target_properties(${name} PROPERTIES
                          LIBRARY_OUTPUT_DIRECTORY "${FORGE_PLUGIN_OUTPUT_DIRECTORY}")
  endif()
  if(FORGE_PLUGIN_INSTALL_DIR)
    install(TARGETS ${name} LIBRARY DESTINATION "${FORGE_PLUGIN_INSTALL_DIR}")
  endif()
endfunction()
