/* Progress, previews and cancelling: what an application with a window needs.
 *
 *   cc live.c $(pkg-config --cflags --libs safelight) -pthread -o live
 *   ./live targets/generic-cpu.yaml models/emoji "a red apple"           # writes preview-STEP.ppm and live.png
 *   ./live targets/generic-cpu.yaml models/emoji "a red apple" 50        # cancels after 50 ms, from another thread
 */
#include <safelight.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int on_progress(void *user, const SafelightProgress *progress) {
  (void)user;
  if (progress->step > 0) printf("step %zu of %zu\n", progress->step, progress->steps);
  return 0; /* anything else cancels */
}

static int on_preview(void *user, const SafelightProgress *progress, const SafelightPicture *picture) {
  char path[64];
  FILE *file;
  size_t row;
  (void)user;
  snprintf(path, sizeof path, "preview-%zu.ppm", progress->step);
  file = fopen(path, "wb");
  if (file == NULL) return 1;
  fprintf(file, "P6\n%zu %zu\n255\n", picture->width, picture->height);
  for (row = 0; row < picture->height; row++) fwrite(picture->pixels + row * picture->stride, 3, picture->width, file);
  return fclose(file) != 0;
}

static void on_warning(void *user, const char *warning) {
  (void)user;
  fprintf(stderr, "warning: %s\n", warning);
}

struct Timer {
  const SafelightCancel *cancel;
  long after_ms;
};

static void *cancel_later(void *argument) {
  const struct Timer *timer = argument;
  struct timespec time;
  time.tv_sec = timer->after_ms / 1000;
  time.tv_nsec = timer->after_ms % 1000 * 1000000;
  nanosleep(&time, NULL);
  safelight_cancel(timer->cancel);
  return NULL;
}

/* Tells an error and returns its code; 0 where there is none. */
static int told(SafelightError *error) {
  int code = safelight_error_code(error);
  if (code != 0) fprintf(stderr, "error: %s\n", safelight_error_message(error));
  safelight_error_free(error);
  return code;
}

int main(int argc, char **argv) {
  SafelightPipeline *pipeline = NULL;
  SafelightRequest *request = safelight_request_new();
  SafelightCancel *cancel = safelight_cancel_new();
  SafelightOutput *output = NULL;
  SafelightWatch watch = {sizeof watch, NULL, NULL, on_progress, on_preview, on_warning};
  struct Timer timer = {NULL, 0};
  pthread_t thread;
  int code;
  if (argc < 4) {
    fprintf(stderr, "usage: %s TARGET.yaml MODEL-FOLDER PROMPT [CANCEL-AFTER-MS]\n", argv[0]);
    return 2;
  }
  watch.cancel = cancel;
  code = told(safelight_pipeline_open(argv[1], argv[2], NULL, &pipeline));
  if (code == 0) code = told(safelight_request_set(request, "prompt", argv[3]));
  if (code == 0) code = told(safelight_request_set(request, "preview-every", "1"));
  if (code == 0 && argc > 4) {
    timer.cancel = cancel;
    timer.after_ms = atol(argv[4]);
    if (pthread_create(&thread, NULL, cancel_later, &timer) != 0) return 70;
  }
  if (code == 0) code = told(safelight_generate(pipeline, request, &watch, &output));
  if (timer.cancel != NULL) pthread_join(thread, NULL);
  if (code == 0) code = told(safelight_output_save(output, 0, "live.png"));
  safelight_output_free(output);
  safelight_cancel_free(cancel);
  safelight_request_free(request);
  safelight_pipeline_free(pipeline);
  return code;
}
