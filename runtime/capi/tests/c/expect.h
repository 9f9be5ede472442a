/* Expectations of the test programs: the first that is not met ends them. */
#ifndef EXPECT_H
#define EXPECT_H

#include <safelight.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition) \
  ((condition) ? (void)0 : (fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition), exit(1)))

/* Takes an error that must have a code and tell something. */
static void expect_error(int line, SafelightError *error, int code, const char *told) {
  if (safelight_error_code(error) != code || strstr(safelight_error_message(error), told) == NULL) {
    fprintf(stderr, "line %d: expected %d and \"%s\", got %d: %.2000s\n", line, code, told, safelight_error_code(error),
            safelight_error_message(error));
    exit(1);
  }
  safelight_error_free(error);
}

#define FAILS(call, code, told) expect_error(__LINE__, call, code, told)
#define WORKS(call) expect_error(__LINE__, call, 0, "")

/* A request of two steps, which is what the tiny models are quick with. */
static inline SafelightRequest *request_of(const char *prompt) {
  SafelightRequest *request = safelight_request_new();
  WORKS(safelight_request_set(request, "prompt", prompt));
  WORKS(safelight_request_set(request, "steps", "2"));
  return request;
}

#endif
