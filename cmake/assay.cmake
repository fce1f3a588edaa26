# The one way to declare a library, a binary and a test.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(ASSAY_CCACHE ccache)
if(ASSAY_CCACHE)
  # Relative paths, so that every build folder of a checkout shares the cache.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${ASSAY_CCACHE})
endif()
find_program(ASSAY_MOLD mold)
if(ASSAY_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# Contracted multiply-adds would change the bits of mock weights between compilers and machines.
add_compile_options(-ffp-contract=off)

# address: AddressSanitizer with UBSan; thread: ThreadSanitizer.
set(ASSAY_SANITIZE "" CACHE STRING "address, thread or empty")
if(ASSAY_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  # GCC 12 finds std::regex uninitialised here (GCC bug 105562); the sanitizer would find it where it is so.
  add_compile_options(-Wno-maybe-uninitialized)
  add_link_options(-fsanitize=address,undefined)
elseif(ASSAY_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread)
  add_link_options(-fsanitize=thread)
elseif(ASSAY_SANITIZE)
  message(FATAL_ERROR "ASSAY_SANITIZE is '${ASSAY_SANITIZE}': address, thread or empty")
endif()

find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(absl REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(GTest REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(GRPC REQUIRED IMPORTED_TARGET grpc++)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(LIBPQ REQUIRED IMPORTED_TARGET libpq)
pkg_check_modules(JEMALLOC REQUIRED IMPORTED_TARGET jemalloc)
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)

# LibTorch as scripts/setup unpacks it from the PyPI wheel; another one by -DASSAY_LIBTORCH=DIR.
set(ASSAY_LIBTORCH ${CMAKE_SOURCE_DIR}/.deps/libtorch CACHE PATH "folder with include/ and lib/ of LibTorch")
if(NOT EXISTS ${ASSAY_LIBTORCH}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "no LibTorch in ${ASSAY_LIBTORCH}: run scripts/setup")
endif()
add_library(assay_torch INTERFACE)
target_include_directories(assay_torch SYSTEM INTERFACE
  ${ASSAY_LIBTORCH}/include ${ASSAY_LIBTORCH}/include/torch/csrc/api/include)
target_link_directories(assay_torch INTERFACE ${ASSAY_LIBTORCH}/lib)
# The operators register themselves, so the linker must not drop the library.
target_link_libraries(assay_torch INTERFACE -Wl,--no-as-needed -ltorch_cpu -lc10 -Wl,--as-needed)
target_link_options(assay_torch INTERFACE -Wl,-rpath,${ASSAY_LIBTORCH}/lib)

# The allocator of what makes many small messages; a sanitizer has its own.
add_library(assay_allocator INTERFACE)
if(NOT ASSAY_SANITIZE)
  target_link_libraries(assay_allocator INTERFACE PkgConfig::JEMALLOC)
endif()

function(assay_target_defaults target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Werror)
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR})
endfunction()

# What ThreadSanitizer must be told of Debian's Abseil: part of every executable of such a build.
if(ASSAY_SANITIZE STREQUAL "thread")
  add_library(assay_tsan_mutex OBJECT ${CMAKE_SOURCE_DIR}/common/tsan_mutex.cc)
  target_link_libraries(assay_tsan_mutex PRIVATE absl::synchronization absl::time)
  assay_target_defaults(assay_tsan_mutex)
  foreach(symbol
      Mutex4LockEv Mutex6UnlockEv Mutex7TryLockEv Mutex5AwaitERKNS0_9ConditionE
      Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE
      Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE)
    target_link_options(assay_tsan_mutex INTERFACE -Wl,--wrap=_ZN4absl7debian35${symbol})
  endforeach()
endif()

function(assay_executable_defaults target)
  assay_target_defaults(${target})
  if(TARGET assay_tsan_mutex)
    target_link_libraries(${target} PRIVATE assay_tsan_mutex absl::synchronization)
  endif()
endfunction()

# assay_library(NAME engine SRCS a.cc b.cc DEPS assay_common): static library assay_<NAME>.
function(assay_library)
  cmake_parse_arguments(arg "" "NAME" "SRCS;DEPS" ${ARGN})
  add_library(assay_${arg_NAME} STATIC ${arg_SRCS})
  target_include_directories(assay_${arg_NAME} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(assay_${arg_NAME} PUBLIC ${arg_DEPS})
  assay_target_defaults(assay_${arg_NAME})
endfunction()

# assay_binary(NAME assay-worker SRCS main.cc DEPS assay_worker): executable bin/<NAME> of the build folder. Its own
# files read options and call libraries: CLI11's templates at -O3 take longest of all to compile.
function(assay_binary)
  cmake_parse_arguments(arg "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${arg_NAME} ${arg_SRCS})
  set_target_properties(${arg_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  target_link_libraries(${arg_NAME} PRIVATE ${arg_DEPS})
  assay_executable_defaults(${arg_NAME})
  target_compile_options(${arg_NAME} PRIVATE $<$<CONFIG:Release>:-O1>)
endfunction()

# assay_test(NAME store_test SRCS store_test.cc DEPS assay_coordinator [TIMEOUT s] [LABELS x]): one ctest entry.
# It runs in the source folder, and finds the build folder in $ASSAY_BUILD_DIR.
function(assay_test)
  cmake_parse_arguments(arg "" "NAME;TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${arg_NAME} ${arg_SRCS})
  target_link_libraries(${arg_NAME} PRIVATE ${arg_DEPS} GTest::gmock GTest::gtest_main)
  assay_executable_defaults(${arg_NAME})
  # What a test itself computes is little; compiling it at -O3 takes half as long again.
  if(NOT ASSAY_SANITIZE)
    target_compile_options(${arg_NAME} PRIVATE -O1)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  add_test(NAME ${arg_NAME} COMMAND ${arg_NAME} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${arg_NAME} PROPERTIES TIMEOUT ${arg_TIMEOUT}
    ENVIRONMENT "ASSAY_BUILD_DIR=${CMAKE_BINARY_DIR}")
  if(arg_LABELS)
    set_tests_properties(${arg_NAME} PROPERTIES LABELS "${arg_LABELS}")
  endif()
endfunction()
