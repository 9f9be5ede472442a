/* Several threads: a pipeline each, one pipeline for two, cancelling from another thread and from a callback, freeing while
 * something runs.
 *
 *   threads TARGET MODEL
 */
#include "expect.h"

#include <pthread.h>
#include <semaphore.h>

static const char *target, *model;

static SafelightPipeline *opened(void) {
  SafelightPipeline *pipeline = NULL;
  WORKS(safelight_pipeline_open(target, model, NULL, &pipeline));
  return pipeline;
}

/* The sum of a picture's bytes. */
static unsigned long made(SafelightPipeline *pipeline, const SafelightWatch *watch) {
  SafelightRequest *request = request_of("a red apple");
  SafelightOutput *output = NULL;
  SafelightPicture picture = {sizeof picture, NULL, 0, 0, 0, 0, NULL};
  unsigned long sum = 0;
  size_t byte;
  WORKS(safelight_generate(pipeline, request, watch, &output));
  WORKS(safelight_output_picture(output, 0, &picture));
  for (byte = 0; byte < picture.stride * picture.height; byte++) sum = sum * 31 + picture.pixels[byte];
  safelight_output_free(output);
  safelight_request_free(request);
  return sum;
}

static void *alone(void *sum) {
  SafelightPipeline *pipeline = opened();
  *(unsigned long *)sum = made(pipeline, NULL);
  safelight_pipeline_free(pipeline);
  return NULL;
}

static void a_pipeline_each(void) {
  pthread_t threads[2];
  unsigned long sums[2] = {0, 1};
  int i;
  for (i = 0; i < 2; i++) EXPECT(pthread_create(&threads[i], NULL, alone, &sums[i]) == 0);
  for (i = 0; i < 2; i++) EXPECT(pthread_join(threads[i], NULL) == 0);
  EXPECT(sums[0] == sums[1]);
}

struct Meeting {
  SafelightPipeline *pipeline;
  sem_t inside, go_on;
};

/* Holds the generation until the other thread has been refused, and is refused itself. */
static int meet(void *user, const SafelightProgress *progress) {
  struct Meeting *meeting = user;
  SafelightRequest *request = request_of("a blue house");
  SafelightOutput *output = NULL;
  if (progress->step == 1) {
    FAILS(safelight_generate(meeting->pipeline, request, NULL, &output), SAFELIGHT_USAGE, "the pipeline is busy");
    EXPECT(sem_post(&meeting->inside) == 0 && sem_wait(&meeting->go_on) == 0);
  }
  safelight_request_free(request);
  return 0;
}

static void *first(void *user) {
  struct Meeting *meeting = user;
  SafelightWatch watch = {sizeof watch, NULL, NULL, meet, NULL, NULL};
  watch.user = meeting;
  made(meeting->pipeline, &watch);
  return NULL;
}

static void one_pipeline_for_two(void) {
  struct Meeting meeting;
  SafelightRequest *request = request_of("a red apple");
  SafelightOutput *output = NULL;
  pthread_t thread;
  meeting.pipeline = opened();
  EXPECT(sem_init(&meeting.inside, 0, 0) == 0 && sem_init(&meeting.go_on, 0, 0) == 0);
  EXPECT(pthread_create(&thread, NULL, first, &meeting) == 0);
  EXPECT(sem_wait(&meeting.inside) == 0);
  FAILS(safelight_generate(meeting.pipeline, request, NULL, &output), SAFELIGHT_USAGE, "the pipeline is busy");
  FAILS(safelight_verify(meeting.pipeline, NULL, &output), SAFELIGHT_USAGE, "the pipeline is busy");
  EXPECT(sem_post(&meeting.go_on) == 0 && pthread_join(thread, NULL) == 0);
  made(meeting.pipeline, NULL);
  safelight_pipeline_free(meeting.pipeline);
  safelight_request_free(request);
  sem_destroy(&meeting.inside);
  sem_destroy(&meeting.go_on);
}

static void *cancel(void *handle) {
  safelight_cancel(handle);
  return NULL;
}

/* Cancels from another thread while the first step is being told, so that the second never ends. */
static int cancel_elsewhere(void *user, const SafelightProgress *progress) {
  pthread_t thread;
  EXPECT(progress->step == 1);
  EXPECT(pthread_create(&thread, NULL, cancel, user) == 0 && pthread_join(thread, NULL) == 0);
  return 0;
}

static int cancel_here(void *user, const SafelightProgress *progress) {
  (void)user;
  EXPECT(progress->step == 1 && progress->steps == 2 && progress->picture == 0 && progress->pictures == 1);
  return 1;
}

static void cancelled(void) {
  SafelightPipeline *pipeline = opened();
  SafelightRequest *request = request_of("a red apple");
  SafelightCancel *handle = safelight_cancel_new();
  SafelightOutput *output = NULL;
  SafelightWatch watch = {sizeof watch, NULL, NULL, cancel_elsewhere, NULL, NULL};
  unsigned long usual = made(pipeline, NULL);
  watch.user = handle;
  watch.cancel = handle;
  FAILS(safelight_generate(pipeline, request, &watch, &output), SAFELIGHT_CANCELLED, "cancelled");
  EXPECT(output == NULL);
  watch.progress = NULL;
  FAILS(safelight_generate(pipeline, request, &watch, &output), SAFELIGHT_CANCELLED, "cancelled");
  watch.cancel = NULL;
  watch.progress = cancel_here;
  FAILS(safelight_generate(pipeline, request, &watch, &output), SAFELIGHT_CANCELLED, "cancelled");
  EXPECT(made(pipeline, NULL) == usual);
  safelight_cancel_free(handle);
  safelight_request_free(request);
  safelight_pipeline_free(pipeline);
}

static int free_it(void *user, const SafelightProgress *progress) {
  SafelightPipeline **pipeline = user;
  (void)progress;
  safelight_pipeline_free(*pipeline);
  *pipeline = NULL;
  return 0;
}

/* Freed by its own callback, it ends what it does first. */
static void freed_while_it_works(void) {
  SafelightPipeline *pipeline = opened();
  SafelightWatch watch = {sizeof watch, NULL, NULL, free_it, NULL, NULL};
  watch.user = &pipeline;
  made(pipeline, &watch);
  EXPECT(pipeline == NULL);
}

int main(int argc, char **argv) {
  EXPECT(argc == 3);
  target = argv[1];
  model = argv[2];
  a_pipeline_each();
  one_pipeline_for_two();
  cancelled();
  freed_while_it_works();
  return 0;
}
