/* The smallest whole program: open once, make a picture a prompt, write it.
 *
 *   cc kiosk.c $(pkg-config --cflags --libs safelight) -o kiosk
 *   ./kiosk targets/generic-cpu.yaml models/emoji "a red apple" "a blue house"
 */
#include <safelight.h>

#include <stdio.h>
#include <stdlib.h>

/* Tells an error and ends; returns where there is none. */
static void check(SafelightError *error) {
  int code = safelight_error_code(error);
  if (code == 0) return;
  fprintf(stderr, "error: %s\n", safelight_error_message(error));
  safelight_error_free(error);
  exit(code);
}

static void make(SafelightPipeline *pipeline, const char *prompt, int number) {
  SafelightRequest *request = safelight_request_new();
  SafelightOutput *output = NULL;
  SafelightPicture picture = {sizeof picture, NULL, 0, 0, 0, 0, NULL};
  SafelightTimings timings;
  char path[64];

  check(safelight_request_set(request, "prompt", prompt));
  check(safelight_request_set(request, "seed", "7"));
  check(safelight_generate(pipeline, request, NULL, &output));

  timings.size = sizeof timings;
  check(safelight_output_timings(output, &timings));
  check(safelight_output_picture(output, 0, &picture));
  snprintf(path, sizeof path, "kiosk-%d.png", number);
  check(safelight_output_save(output, 0, path));
  printf("%s: %zux%zu pixels, %.0f ms, of which %.2f ms are safelight's own\n", path, picture.width, picture.height,
         timings.total_ms, timings.own_ms);

  safelight_output_free(output);
  safelight_request_free(request);
}

int main(int argc, char **argv) {
  SafelightPipeline *pipeline = NULL;
  int i;
  if (argc < 4) {
    fprintf(stderr, "usage: %s TARGET.yaml MODEL-FOLDER PROMPT...\n", argv[0]);
    return 2;
  }
  check(safelight_pipeline_open(argv[1], argv[2], NULL, &pipeline));
  for (i = 3; i < argc; i++) make(pipeline, argv[i], i - 2);
  safelight_pipeline_free(pipeline);
  return 0;
}
