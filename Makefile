# Short names for the scripts; the scripts are the truth.
.PHONY: run test nightly build format tidy
run:
	scripts/run
test:
	scripts/test
nightly:
	scripts/nightly
build:
	scripts/build
format:
	git ls-files '*.h' '*.cc' | xargs clang-format -i
tidy: build
	git ls-files '*.cc' | grep -v '^tests/' | xargs clang-tidy -p build/release --quiet
