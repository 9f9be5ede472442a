/* Everything that can be wrong, each told by its code, and the pipeline as good as before afterwards.
 *
 *   faults TARGET STAGED-TARGET MODEL MODEL-THAT-GIVES-NAN FOLDER SAFELIGHT
 */
#include "expect.h"

#include <signal.h>
#include <stdint.h>

static void calls_without_anything(void) {
  SafelightPicture picture = {sizeof picture, NULL, 0, 0, 0, 0, NULL};
  SafelightTimings timings = {sizeof timings, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  SafelightOutput *output = (SafelightOutput *)&picture;
  EXPECT(safelight_error_code(NULL) == 0 && safelight_error_message(NULL)[0] == '\0');
  EXPECT(strcmp(safelight_version(), SAFELIGHT_VERSION) == 0);
  FAILS(safelight_pipeline_open("t.yaml", "m", NULL, NULL), SAFELIGHT_USAGE, "pipeline is NULL");
  FAILS(safelight_generate(NULL, NULL, NULL, NULL), SAFELIGHT_USAGE, "output is NULL");
  FAILS(safelight_generate(NULL, NULL, NULL, &output), SAFELIGHT_USAGE, "request is NULL");
  EXPECT(output == NULL);
  FAILS(safelight_verify(NULL, NULL, &output), SAFELIGHT_USAGE, "pipeline is NULL");
  FAILS(safelight_options_set(NULL, "threads", "1"), SAFELIGHT_USAGE, "options is NULL");
  FAILS(safelight_request_set(NULL, "steps", "1"), SAFELIGHT_USAGE, "request is NULL");
  FAILS(safelight_request_set_image(NULL, NULL, 1, 1, 3), SAFELIGHT_USAGE, "request is NULL");
  FAILS(safelight_output_picture(NULL, 0, &picture), SAFELIGHT_USAGE, "output is NULL");
  FAILS(safelight_output_timings(NULL, &timings), SAFELIGHT_USAGE, "output is NULL");
  FAILS(safelight_output_save(NULL, 0, "a.png"), SAFELIGHT_USAGE, "output is NULL");
  EXPECT(safelight_output_count(NULL) == 0 && safelight_output_report(NULL) == NULL);
  safelight_cancel(NULL);
  safelight_error_free(NULL);
  safelight_options_free(NULL);
  safelight_request_free(NULL);
  safelight_cancel_free(NULL);
  safelight_pipeline_free(NULL);
  safelight_output_free(NULL);
}

static void wrong_options(const char *target, const char *model) {
  SafelightOptions *options = safelight_options_new();
  SafelightPipeline *pipeline = NULL;
  FAILS(safelight_options_set(options, "treads", "1"), SAFELIGHT_USAGE, "did you mean \"threads\"");
  FAILS(safelight_options_set(options, NULL, "1"), SAFELIGHT_USAGE, "name is NULL");
  FAILS(safelight_options_set(options, "threads", NULL), SAFELIGHT_USAGE, "threads: value is NULL");
  FAILS(safelight_options_set(options, "threads", "\xff"), SAFELIGHT_USAGE, "threads: value is not UTF-8 after byte 0");
  FAILS(safelight_options_set(options, "threads", "1025"), SAFELIGHT_USAGE, "from 0 to 1024");
  FAILS(safelight_options_set(options, "precision", "int8,fp8"), SAFELIGHT_USAGE, "expected int8, fp16 or fp32");
  FAILS(safelight_options_set(options, "cached-only", "yes"), SAFELIGHT_USAGE, "expected true or false");
  FAILS(safelight_options_set(options, "cache", ""), SAFELIGHT_USAGE, "expected a path");
  WORKS(safelight_options_set(options, "library", "nowhere/libonnxruntime.so"));
  FAILS(safelight_pipeline_open(target, model, options, &pipeline), SAFELIGHT_LIBRARY, "nowhere/libonnxruntime.so");
  EXPECT(pipeline == NULL);
  safelight_options_free(options);
}

static void wrong_files(const char *target, const char *model) {
  SafelightPipeline *pipeline = NULL;
  FAILS(safelight_pipeline_open("absent.yaml", model, NULL, &pipeline), SAFELIGHT_USAGE, "absent.yaml");
  FAILS(safelight_pipeline_open(target, "absent", NULL, &pipeline), SAFELIGHT_MODEL, "absent");
  FAILS(safelight_pipeline_open(target, "absent\xc3", NULL, &pipeline), SAFELIGHT_USAGE, "model is not UTF-8 after byte 6");
  FAILS(safelight_pipeline_open(NULL, model, NULL, &pipeline), SAFELIGHT_USAGE, "target is NULL");
  FAILS(safelight_pipeline_open(model, target, NULL, &pipeline), SAFELIGHT_USAGE, "");
  EXPECT(pipeline == NULL);
}

static char *long_text(size_t length) {
  char *text = malloc(length + 1);
  EXPECT(text != NULL);
  memset(text, 'x', length);
  text[length] = '\0';
  return text;
}

static void wrong_requests(SafelightPipeline *pipeline) {
  SafelightRequest *request = request_of("a red apple");
  SafelightOutput *output = NULL;
  SafelightWatch watch;
  uint8_t pixels[64 * 3] = {0};
  char *book = long_text(1000000);
  FAILS(safelight_request_set(request, "step", "4"), SAFELIGHT_USAGE, "did you mean \"steps\"");
  FAILS(safelight_request_set(request, "steps", "four"), SAFELIGHT_USAGE, "steps \"four\": expected a whole number");
  FAILS(safelight_request_set(request, "prompt", "caf\xe9"), SAFELIGHT_USAGE, "prompt: value is not UTF-8 after byte 3");
  FAILS(safelight_request_set(request, book, "4"), SAFELIGHT_USAGE, "unknown field");
  FAILS(safelight_request_set(request, "steps", book), SAFELIGHT_USAGE, "expected a whole number");
  FAILS(safelight_request_set_image(request, NULL, 8, 8, 24), SAFELIGHT_USAGE, "pixels is NULL");
  FAILS(safelight_request_set_image(request, pixels, 0, 8, 24), SAFELIGHT_USAGE, "0\xc3\x97" "8 pixels");
  FAILS(safelight_request_set_image(request, pixels, 8, 8, 23), SAFELIGHT_USAGE, "less than a row");
  FAILS(safelight_request_set_image(request, pixels, SIZE_MAX / 3 + 1, 1, SIZE_MAX), SAFELIGHT_USAGE, "pixels");
  FAILS(safelight_request_set_mask(request, pixels, 8, 8, SIZE_MAX / 2), SAFELIGHT_USAGE, "more than any memory has");
  WORKS(safelight_request_set(request, "prompt", book));
  FAILS(safelight_generate(pipeline, request, NULL, &output), SAFELIGHT_LIMIT, "prompt bytes: 1000000");
  WORKS(safelight_request_set(request, "prompt", "a red apple"));
  WORKS(safelight_request_set(request, "sampler", "eulr"));
  FAILS(safelight_generate(pipeline, request, NULL, &output), SAFELIGHT_USAGE, "did you mean \"euler\"");
  WORKS(safelight_request_set(request, "sampler", "euler"));
  WORKS(safelight_request_set(request, "count", "18446744073709551615"));
  FAILS(safelight_generate(pipeline, request, NULL, &output), SAFELIGHT_LIMIT, "count");
  WORKS(safelight_request_set(request, "count", "2"));
  WORKS(safelight_request_set(request, "seed", "18446744073709551615"));
  FAILS(safelight_generate(pipeline, request, NULL, &output), SAFELIGHT_USAGE, "leaves no room");
  memset(&watch, 0, sizeof watch);
  FAILS(safelight_generate(pipeline, request, &watch, &output), SAFELIGHT_USAGE, "SafelightWatch.size is 0");
  watch.size = sizeof watch + 8;
  FAILS(safelight_generate(pipeline, request, &watch, &output), SAFELIGHT_USAGE, "the header of this library");
  EXPECT(output == NULL);
  FAILS(safelight_generate(pipeline, request, NULL, NULL), SAFELIGHT_USAGE, "output is NULL");
  FAILS(safelight_verify(pipeline, NULL, &output), SAFELIGHT_USAGE, "has no goldens");
  free(book);
  safelight_request_free(request);
}

/* After all of that it makes pictures; then everything that can be wrong with those. */
static void pictures(SafelightPipeline *pipeline, const char *folder) {
  SafelightRequest *request = request_of("a red apple");
  SafelightOutput *output = NULL;
  SafelightPicture first = {sizeof first, NULL, 0, 0, 0, 0, NULL}, second = first, wrong = first;
  SafelightTimings timings = {sizeof timings, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  char path[4096];
  WORKS(safelight_request_set(request, "count", "2"));
  WORKS(safelight_request_set(request, "seed", "3"));
  WORKS(safelight_generate(pipeline, request, NULL, &output));
  safelight_request_free(request);
  EXPECT(safelight_output_count(output) == 2);
  WORKS(safelight_output_picture(output, 0, &first));
  WORKS(safelight_output_picture(output, 1, &second));
  EXPECT(first.seed == 3 && second.seed == 4 && first.width == 64 && first.height == 64 && first.stride == 3 * 64);
  EXPECT(memcmp(first.pixels, second.pixels, first.stride * first.height) != 0);
  EXPECT(strstr(second.provenance, "\"seed\":4") != NULL);
  EXPECT(strstr(safelight_output_report(output), "\"steps_ms\":[") != NULL);
  EXPECT(strstr(safelight_output_report(output), "\"probe\":{\"program\":null") != NULL);
  WORKS(safelight_output_timings(output, &timings));
  EXPECT(timings.total_ms > 0 && timings.graphs_ms > 0 && timings.graphs_ms < timings.total_ms);
  FAILS(safelight_output_picture(output, 2, &wrong), SAFELIGHT_USAGE, "there is no picture 2: the output has 2");
  FAILS(safelight_output_picture(output, SIZE_MAX, &wrong), SAFELIGHT_USAGE, "there is no picture");
  FAILS(safelight_output_picture(output, 0, NULL), SAFELIGHT_USAGE, "picture is NULL");
  wrong.size = 8;
  FAILS(safelight_output_picture(output, 0, &wrong), SAFELIGHT_USAGE, "SafelightPicture.size is 8");
  EXPECT(wrong.pixels == NULL);
  timings.size = 0;
  FAILS(safelight_output_timings(output, &timings), SAFELIGHT_USAGE, "SafelightTimings.size is 0");
  FAILS(safelight_output_save(output, 0, NULL), SAFELIGHT_USAGE, "path is NULL");
  FAILS(safelight_output_save(output, 0, "picture"), SAFELIGHT_USAGE, "its name says no format");
  FAILS(safelight_output_save(output, 0, "absent/picture.png"), SAFELIGHT_IO, "its folder does not exist");
  EXPECT(snprintf(path, sizeof path, "%s/picture.png", folder) < (int)sizeof path);
  WORKS(safelight_output_save(output, 1, path));
  safelight_output_free(output);
}

static int preview_count(void *user, const SafelightProgress *progress, const SafelightPicture *picture) {
  int *count = user;
  EXPECT(picture->width == 64 && picture->stride == 3 * 64 && picture->provenance == NULL && progress->step == 1);
  (*count)++;
  return 0;
}

/* One preview: none after the last step. */
static void previews(SafelightPipeline *pipeline) {
  SafelightRequest *request = request_of("a red apple");
  SafelightOutput *output = NULL;
  int count = 0;
  SafelightWatch watch = {sizeof watch, NULL, NULL, NULL, preview_count, NULL};
  watch.user = &count;
  WORKS(safelight_request_set(request, "preview-every", "1"));
  WORKS(safelight_generate(pipeline, request, &watch, &output));
  EXPECT(count == 1);
  safelight_output_free(output);
  safelight_request_free(request);
}

static void staged(const char *target, const char *model) {
  SafelightPipeline *pipeline = NULL;
  SafelightRequest *request = request_of("a red apple");
  SafelightOutput *output = NULL;
  WORKS(safelight_request_set(request, "preview-every", "1"));
  WORKS(safelight_pipeline_open(target, model, NULL, &pipeline));
  FAILS(safelight_generate(pipeline, request, NULL, &output), SAFELIGHT_USAGE, "previews need the decoder in memory");
  safelight_pipeline_free(pipeline);
  safelight_request_free(request);
}

static void not_a_number(const char *target, const char *model) {
  SafelightPipeline *pipeline = NULL;
  SafelightRequest *request = request_of("a red apple");
  SafelightOutput *output = NULL;
  WORKS(safelight_pipeline_open(target, model, NULL, &pipeline));
  FAILS(safelight_generate(pipeline, request, NULL, &output), SAFELIGHT_NUMERIC, "NaN");
  EXPECT(output == NULL);
  safelight_pipeline_free(pipeline);
  safelight_request_free(request);
}

/* What options say is done: graphs are tried by the program that is named, prompts are kept. */
static void with_options(const char *target, const char *model, const char *program, const char *folder) {
  SafelightOptions *options = safelight_options_new();
  SafelightPipeline *pipeline = NULL;
  SafelightRequest *request = request_of("a red apple");
  SafelightOutput *output = NULL;
  char prompts[4096];
  EXPECT(snprintf(prompts, sizeof prompts, "%s/prompts", folder) < (int)sizeof prompts);
  WORKS(safelight_options_set(options, "prompt-cache", prompts));
  WORKS(safelight_options_set(options, "threads", "1"));
  /* Under valgrind a program that is not there is one that has ended. */
  if (getenv("UNDER_VALGRIND") == NULL) {
    WORKS(safelight_options_set(options, "probe-program", "absent/safelight"));
    FAILS(safelight_pipeline_open(target, model, options, &pipeline), SAFELIGHT_IO, "absent/safelight");
  }
  /* It ends without reading what it was told: no SIGPIPE comes of that. */
  WORKS(safelight_options_set(options, "probe-program", "/bin/true"));
  FAILS(safelight_pipeline_open(target, model, options, &pipeline), SAFELIGHT_LIBRARY, "it ended before it saw the graph");
  WORKS(safelight_options_set(options, "probe-program", program));
  WORKS(safelight_pipeline_open(target, model, options, &pipeline));
  safelight_options_free(options);
  WORKS(safelight_generate(pipeline, request, NULL, &output));
  EXPECT(strstr(safelight_output_report(output), program) != NULL);
  safelight_output_free(output);
  safelight_pipeline_free(pipeline);
  safelight_request_free(request);
}

/* A process has one ONNX Runtime: another one is not taken for it. */
static void another_library(const char *target, const char *model) {
  SafelightOptions *options = safelight_options_new();
  SafelightPipeline *pipeline = NULL;
  WORKS(safelight_options_set(options, "library", target));
  FAILS(safelight_pipeline_open(target, model, options, &pipeline), SAFELIGHT_LIBRARY, "has opened");
  safelight_options_free(options);
}

int main(int argc, char **argv) {
  SafelightPipeline *pipeline = NULL;
  void (*before)(int) = signal(SIGPIPE, SIG_DFL);
  EXPECT(argc == 7 && before != SIG_ERR);
  calls_without_anything();
  wrong_options(argv[1], argv[3]);
  wrong_files(argv[1], argv[3]);
  WORKS(safelight_pipeline_open(argv[1], argv[3], NULL, &pipeline));
  wrong_requests(pipeline);
  pictures(pipeline, argv[5]);
  previews(pipeline);
  safelight_pipeline_free(pipeline);
  staged(argv[2], argv[3]);
  not_a_number(argv[1], argv[4]);
  with_options(argv[1], argv[3], argv[6], argv[5]);
  another_library(argv[1], argv[3]);
  EXPECT(signal(SIGPIPE, SIG_DFL) == SIG_DFL);
  return 0;
}
