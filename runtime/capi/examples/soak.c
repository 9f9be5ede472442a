/* Makes many pictures and tells whether memory or descriptors grow, as lines of CSV: Linux only.
 *
 *   cc -O2 soak.c $(pkg-config --cflags --libs safelight) -o soak
 *   ./soak targets/generic-cpu.yaml models/emoji 10000 100 > soak.csv    # 10,000 pictures, a line every 100
 *
 * The last line is what was found: the median resident memory of the second tenth of the samples, of the last tenth, and
 * their ratio. Exit code 1 where memory has grown by more than 2 %, or descriptors or threads have become more.
 */
#define _POSIX_C_SOURCE 200809L
#include <safelight.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const PROMPTS[] = {"a red apple", "a blue house", "penguin", "a green car", "a yellow star",
                                      "smiling face", "an orange bus", "a purple heart", "a cat", "rainbow"};

static void check(SafelightError *error) {
  int code = safelight_error_code(error);
  if (code == 0) return;
  fprintf(stderr, "error: %s\n", safelight_error_message(error));
  safelight_error_free(error);
  exit(code);
}

/* Entries of a folder of /proc/self, without . and .. and without the one that this opens. */
static long entries(const char *folder) {
  DIR *opened = opendir(folder);
  long count = -2;
  if (opened == NULL) exit(7);
  while (readdir(opened) != NULL) count++;
  closedir(opened);
  return strcmp(folder, "/proc/self/fd") == 0 ? count - 1 : count;
}

static long resident_kib(void) {
  FILE *status = fopen("/proc/self/status", "r");
  char line[256];
  long kib = 0;
  if (status == NULL) exit(7);
  while (fgets(line, sizeof line, status) != NULL)
    if (sscanf(line, "VmRSS: %ld kB", &kib) == 1) break;
  fclose(status);
  return kib;
}

static void make(SafelightPipeline *pipeline, long number) {
  SafelightRequest *request = safelight_request_new();
  SafelightOutput *output = NULL;
  SafelightPicture picture = {sizeof picture, NULL, 0, 0, 0, 0, NULL};
  char seed[32];
  snprintf(seed, sizeof seed, "%ld", number);
  check(safelight_request_set(request, "prompt", PROMPTS[number % 10]));
  check(safelight_request_set(request, "seed", seed));
  check(safelight_generate(pipeline, request, NULL, &output));
  check(safelight_output_picture(output, 0, &picture));
  if (picture.seed != (uint64_t)number || picture.pixels == NULL) exit(70);
  safelight_output_free(output);
  safelight_request_free(request);
}

static int by_size(const void *a, const void *b) {
  long left = *(const long *)a, right = *(const long *)b;
  return (left > right) - (left < right);
}

static double median(const long *samples, long count) {
  long *sorted = malloc((size_t)count * sizeof *sorted);
  double middle;
  if (sorted == NULL) exit(70);
  memcpy(sorted, samples, (size_t)count * sizeof *sorted);
  qsort(sorted, (size_t)count, sizeof *sorted, by_size);
  middle = (double)sorted[count / 2];
  free(sorted);
  return middle;
}

int main(int argc, char **argv) {
  SafelightPipeline *pipeline = NULL;
  long pictures, every, taken = 0, tenth, number, descriptors = 0, threads = 0, *samples;
  double warm, last;
  if (argc != 5 || (pictures = atol(argv[3])) < 1 || (every = atol(argv[4])) < 1 || pictures / every < 10) {
    fprintf(stderr, "usage: %s TARGET.yaml MODEL-FOLDER PICTURES EVERY (at least 10 samples)\n", argv[0]);
    return 2;
  }
  samples = calloc((size_t)(pictures / every), sizeof *samples);
  if (samples == NULL) return 70;
  check(safelight_pipeline_open(argv[1], argv[2], NULL, &pipeline));
  printf("pictures,resident_kib,descriptors,threads\n");
  for (number = 1; number <= pictures; number++) {
    make(pipeline, number);
    if (number % every != 0) continue;
    samples[taken] = resident_kib();
    if (taken == 0) {
      descriptors = entries("/proc/self/fd");
      threads = entries("/proc/self/task");
    }
    printf("%ld,%ld,%ld,%ld\n", number, samples[taken++], entries("/proc/self/fd"), entries("/proc/self/task"));
    fflush(stdout);
  }
  tenth = taken / 10;
  warm = median(samples + tenth, tenth);
  last = median(samples + taken - tenth, tenth);
  descriptors = entries("/proc/self/fd") - descriptors;
  threads = entries("/proc/self/task") - threads;
  printf("# resident %.0f KiB after warm-up, %.0f KiB at the end, ratio %.4f; %+ld descriptors, %+ld threads\n", warm, last,
         last / warm, descriptors, threads);
  safelight_pipeline_free(pipeline);
  free(samples);
  return last > 1.02 * warm || descriptors > 0 || threads > 0;
}
