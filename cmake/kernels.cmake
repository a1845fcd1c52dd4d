# One folder per instruction set (src/kernel/<isa>), each compiled with its own flags; chosen at run time (kernel/dispatch.c).
# Fuzz builds leave the vector kernels uninstrumented: no untrusted byte is parsed there, and instrumenting unrolled
# vector code takes clang minutes. The sanitizer builds of the tests do instrument them, at -O1 for the same reason.
function(fp_add_isa isa)
  if(FIELDPRINT_FUZZ)
    list(APPEND ARGN -fno-sanitize=all)
  elseif(FIELDPRINT_SANITIZE)
    list(APPEND ARGN -O1)
  endif()
  file(GLOB found CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernel/${isa}/*.c)
  set_source_files_properties(${found} PROPERTIES COMPILE_OPTIONS "${ARGN}")
  set(FP_SOURCES ${FP_SOURCES} ${found} PARENT_SCOPE)
endfunction()

fp_add_isa(ref)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  fp_add_isa(avx2 -O3 -mavx2 -mfma -mf16c -mbmi2)
  fp_add_isa(avx512 -O3 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c -mbmi2 -mprefer-vector-width=512)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  fp_add_isa(neon -O3 -march=armv8.2-a+dotprod)
endif()
