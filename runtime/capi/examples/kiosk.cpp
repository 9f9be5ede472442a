// As kiosk.c, in C++11: nothing to give back, errors are thrown.
//
//   c++ kiosk.cpp $(pkg-config --cflags --libs safelight) -o kiosk
//   ./kiosk targets/generic-cpu.yaml models/emoji "a red apple"
#include <safelight.hpp>

#include <cstdio>
#include <stdexcept>

static void make(safelight::Pipeline &pipeline, const char *prompt, int number) {
  safelight::Request request;
  request.set("prompt", prompt).set("seed", "7");
  safelight::Output output = pipeline.generate(request, [](const SafelightProgress &progress) {
    if (progress.step > 0) std::printf("step %zu of %zu\n", progress.step, progress.steps);
    return true;
  });
  std::string path = "kiosk-" + std::to_string(number) + ".png";
  output.save(0, path);
  std::printf("%s: %.0f ms\n", path.c_str(), output.timings().total_ms);
}

// What a callback throws arrives where generate was called, and the pipeline can be used again.
static bool throws_through(safelight::Pipeline &pipeline) {
  safelight::Request request;
  request.set("prompt", "a red apple");
  try {
    pipeline.generate(request, [](const SafelightProgress &) -> bool { throw std::domain_error("enough"); });
  } catch (const std::domain_error &) {
    return true;
  }
  return false;
}

int main(int argc, char **argv) try {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s TARGET.yaml MODEL-FOLDER PROMPT...\n", argv[0]);
    return 2;
  }
  safelight::Pipeline pipeline(argv[1], argv[2]);
  if (!throws_through(pipeline)) return 70;
  for (int i = 3; i < argc; i++) make(pipeline, argv[i], i - 2);
  return 0;
} catch (const safelight::Error &error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return error.code();
}
