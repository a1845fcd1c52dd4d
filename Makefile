# A thin front to CMake and scripts/ for the commands of the README. `make help` lists them.
PREFIX ?= /usr/local
CUDA_ARCHITECTURES ?= 90a

.PHONY: all cuda help setup model demo test lint install clean

all: ## build the program: build/fieldprint
	@scripts/setup.sh --check build
	@cmake --preset release --log-level=WARNING >/dev/null
	@cmake --build --preset release --target program

cuda: ## the same with NVIDIA GPUs: build-cuda/fieldprint (CUDA_ARCHITECTURES="80;90a": more GPUs than H100 and H200)
	@scripts/setup.sh --check build
	@cmake --preset cuda --log-level=WARNING -DFIELDPRINT_CUDA_ARCHITECTURES="$(CUDA_ARCHITECTURES)" >/dev/null
	@cmake --build --preset cuda --target program

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20

setup: ## install what building and testing need (Debian, as root)
	@scripts/setup.sh

model: ## fetch the default model; the last line is its path
	@scripts/fetch-model.sh

demo: ## install what is missing, build, fetch the model and run the main job
	@scripts/setup.sh build model
	@$(MAKE) --no-print-directory all
	@scripts/fetch-model.sh
	@scripts/demo.sh

test: ## install what is missing, build in every way and run all tests
	@scripts/setup.sh
	@scripts/test.sh

lint: ## formatting, warnings of a second compiler, static analysis
	@scripts/setup.sh build test lint
	@scripts/lint.sh

install: all ## install the program and the library under PREFIX (/usr/local); honours DESTDIR
	@cmake --preset release --log-level=WARNING -DCMAKE_INSTALL_PREFIX="$(PREFIX)" >/dev/null
	@cmake --install build

clean: ## remove everything that was built
	rm -rf build build-cuda build-debug build-asan build-tsan build-fuzz build-aarch64 build-lint
