/* Holds a model to the numbers that came with it: verify TARGET MODEL. Prints the report; exits with the error's code. */
#include <safelight.h>

#include <stdio.h>

int main(int argc, char **argv) {
  SafelightPipeline *pipeline = NULL;
  SafelightOutput *output = NULL;
  SafelightError *error = argc == 3 ? safelight_pipeline_open(argv[1], argv[2], NULL, &pipeline) : NULL;
  int code;
  if (error == NULL) error = safelight_verify(pipeline, NULL, &output);
  if (error != NULL) fprintf(stderr, "error: %s\n", safelight_error_message(error));
  /* Numbers beyond a bound are an error, and have a report nevertheless. */
  if (output != NULL) puts(safelight_output_report(output));
  code = safelight_error_code(error);
  safelight_error_free(error);
  safelight_output_free(output);
  safelight_pipeline_free(pipeline);
  return code;
}
