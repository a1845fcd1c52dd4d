# CUDA is optional: OFF by default (compiling the kernels of four head sizes takes minutes), ON, or AUTO: where a compiler
# is found. Included before fp_objects is made; the kernels (*.cu) and the host's side of them (cuda/*.c) are object
# libraries of their own, which everything that links fp_objects gets too.
set(FIELDPRINT_CUDA OFF CACHE STRING "CUDA backend: AUTO, ON or OFF")
# 90a: Hopper with its own instructions (H100, H200). Others: 80 (A100), 86, 89 (L4, RTX 40), 100a, 120a. A number without
# a letter also carries PTX, which newer GPUs compile when they load it: "80;90a" runs on everything from Ampere on.
set(FIELDPRINT_CUDA_ARCHITECTURES "90a" CACHE STRING "GPU architectures to build for")
set(FP_HAS_CUDA OFF)
if(NOT FIELDPRINT_CUDA STREQUAL OFF AND NOT FIELDPRINT_KERNELS_ONLY AND NOT FIELDPRINT_SANITIZE AND NOT FIELDPRINT_FUZZ)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(FP_HAS_CUDA ON)
  elseif(FIELDPRINT_CUDA STREQUAL ON)
    message(FATAL_ERROR "FIELDPRINT_CUDA=ON, but no CUDA compiler was found; put nvcc on PATH or set CMAKE_CUDA_COMPILER")
  endif()
endif()
if(FP_HAS_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES ${FIELDPRINT_CUDA_ARCHITECTURES})
  set(CMAKE_CUDA_STANDARD 17)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  file(GLOB FP_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/*/cuda/*.cu)
  add_library(fp_cuda OBJECT ${FP_CUDA_SOURCES})
  target_include_directories(fp_cuda PRIVATE ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)
  # Canonical arithmetic: no contraction, correctly rounded division and square root, subnormals kept
  target_compile_options(fp_cuda PRIVATE -fmad=false -prec-div=true -prec-sqrt=true -ftz=false -Xcompiler=-fvisibility=hidden,-Wall,-Wno-unknown-pragmas) # unroll is nvcc's
  set_target_properties(fp_cuda PROPERTIES POSITION_INDEPENDENT_CODE ON)
  # The page store and the forward pass on the GPU are C on the host's side.
  file(GLOB FP_CUDA_HOST_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/*/cuda/*.c)
  add_library(fp_cuda_host OBJECT ${FP_CUDA_HOST_SOURCES})
  target_include_directories(fp_cuda_host SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(fp_cuda_host PRIVATE fp_flags)
  set_target_properties(fp_cuda_host PROPERTIES POSITION_INDEPENDENT_CODE ON)
  list(REMOVE_ITEM FP_SOURCES ${CMAKE_SOURCE_DIR}/src/model/no_cuda.c ${CMAKE_SOURCE_DIR}/src/engine/bench_no_cuda.c) # cuda/*.c have these functions
endif()
