add_library(fieldprint_shared SHARED $<TARGET_OBJECTS:fp_objects>)
add_library(fieldprint_static STATIC $<TARGET_OBJECTS:fp_objects>)
foreach(lib fieldprint_shared fieldprint_static)
  target_link_libraries(${lib} PUBLIC fp_flags PkgConfig::FP_DEPS)
  set_target_properties(${lib} PROPERTIES OUTPUT_NAME fieldprint VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
endforeach()
file(GLOB FP_CLI CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cli/*.c)
if(FP_CLI)
  add_executable(fieldprint ${FP_CLI})
  target_link_libraries(fieldprint PRIVATE fieldprint_static)
  install(TARGETS fieldprint RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  # The man page comes from the same tables as --help.
  add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/fieldprint.1
    COMMAND fieldprint help --man > ${CMAKE_BINARY_DIR}/fieldprint.1 DEPENDS fieldprint VERBATIM)
  add_custom_target(man ALL DEPENDS ${CMAKE_BINARY_DIR}/fieldprint.1)
  install(FILES ${CMAKE_BINARY_DIR}/fieldprint.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()
# What `make` builds: everything people install, without the tests.
add_custom_target(program DEPENDS fieldprint_shared fieldprint_static)
if(FP_CLI)
  add_dependencies(program fieldprint man)
endif()
install(TARGETS fieldprint_shared fieldprint_static LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/fieldprint DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
# The prefix is found from where the file is, so that --prefix and DESTDIR move it.
file(RELATIVE_PATH FP_PC_PREFIX "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file(${CMAKE_SOURCE_DIR}/cmake/fieldprint.pc.in ${CMAKE_BINARY_DIR}/fieldprint.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/fieldprint.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
