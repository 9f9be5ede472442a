// safelight: few-step latent diffusion through ONNX Runtime, for C and C++. docs/embedding-c.md is the way in.
//
// Ownership: what a function ending in _new, _open, _generate or _verify gives is the caller's, and goes back through the
// function ending in _free; what else is told by pointer belongs to what it was asked of. Every function that can fail
// returns an error that the caller owns, or NULL. Texts are UTF-8 and end with NUL; paths, too.
//
// Threads: each type says what it allows. The library installs no signal handler, writes to no standard stream, changes
// no folder, starts no process unless the option "probe-program" names one, and reaches no network. A process that has
// forked must not use in the child what the parent had opened.
//
// Generated from the sources by cbindgen; do not edit.


#ifndef SAFELIGHT_H
#define SAFELIGHT_H

#include <stddef.h>
#include <stdint.h>

// The version of this header; safelight_version() tells that of the library.
#define SAFELIGHT_VERSION "0.1.0"
#define SAFELIGHT_VERSION_MAJOR 0
#define SAFELIGHT_VERSION_MINOR 1
#define SAFELIGHT_VERSION_PATCH 0


// The request, the target file or a call itself asks for something that does not exist or cannot be.
#define SAFELIGHT_USAGE 2

// The model folder, its manifest or one of its graphs is not what it should be.
#define SAFELIGHT_MODEL 3

// ONNX Runtime or an execution provider cannot be used.
#define SAFELIGHT_LIBRARY 4

// What is asked for exceeds a limit of the target or of the library.
#define SAFELIGHT_LIMIT 5

// A graph produced NaN, a constant latent or a black picture, or numbers are beyond a bound.
#define SAFELIGHT_NUMERIC 6

// A file could not be read or written.
#define SAFELIGHT_IO 7

// The caller cancelled.
#define SAFELIGHT_CANCELLED 8

// A mistake of safelight itself.
#define SAFELIGHT_INTERNAL 70

// Stops what runs under it, from any thread and as often as wanted. Once used it stays so: make one for each
// generation. What runs under it keeps it alive.
typedef struct SafelightCancel SafelightCancel;

// Why something could not be done. The caller owns it. It is never changed, so any thread may read it.
typedef struct SafelightError SafelightError;

// How a pipeline is opened. One thread may change it at a time; while none does, many may read it.
typedef struct SafelightOptions SafelightOptions;

// What a generation or a verification gave. It is never changed, so any thread may read it.
typedef struct SafelightOutput SafelightOutput;

// A model opened on a target. Any thread may use it, one at a time: a second one is told that it is busy. Several
// pipelines work side by side.
typedef struct SafelightPipeline SafelightPipeline;

// What to make. One thread may change it at a time; while none does, many may read it.
typedef struct SafelightRequest SafelightRequest;

// How far a generation is. The library makes it; later versions may add fields at its end.
typedef struct SafelightProgress {
  // Index of the picture, or of the first of those that go through the graphs together.
  size_t picture;
  // Pictures of this request.
  size_t pictures;
  // Steps that are done of this picture; 0 where a picture has just been decoded, whose index is picture.
  size_t step;
  // Steps that it takes; 0 where a tolerance decides.
  size_t steps;
  // The timestep that the step began at.
  double timestep;
} SafelightProgress;

// A picture: rows of 8-bit red, green and blue from the top. It belongs to what it came from.
typedef struct SafelightPicture {
  // sizeof(SafelightPicture), set by whoever made the struct.
  size_t size;
  // The first byte of the first row.
  const uint8_t *pixels;
  // Width in pixels.
  size_t width;
  // Height in pixels.
  size_t height;
  // Bytes from one row to the next.
  size_t stride;
  // The seed that made it.
  uint64_t seed;
  // How to make it again, as JSON; NULL for a preview.
  const char *provenance;
} SafelightPicture;

// Who is told what, and what stops it. Callbacks run on the thread that generates. They must return: no longjmp, no
// exception. They may use everything but the pipeline that calls them, which is busy. Any of them may be NULL.
typedef struct SafelightWatch {
  // sizeof(SafelightWatch).
  size_t size;
  // Given to every callback as it is.
  void *user;
  // Stops the generation from another thread; may be NULL.
  const struct SafelightCancel *cancel;
  // Told after each step and each decoded picture; anything but 0 cancels, as safelight_cancel does.
  int (*progress)(void *user, const struct SafelightProgress *progress);
  // Told what a picture would be if this step were the last, as the field preview-every asks: the estimate, decoded.
  // The picture has no provenance, and is gone when the callback returns. Where the decoder makes nothing of an estimate
  // yet there is none. Anything but 0 cancels.
  int (*preview)(void *user, const struct SafelightProgress *progress, const struct SafelightPicture *picture);
  // Told what the caller should know and what stops nothing; the report has it, too. The text is gone when the callback
  // returns.
  void (*warning)(void *user, const char *warning);
} SafelightWatch;

// Where the time of a generation went, in milliseconds, and how often the text encoder was spared. The report has each
// step.
typedef struct SafelightTimings {
  // sizeof(SafelightTimings), set by the caller.
  size_t size;
  // Finding the library, verifying hashes and opening graphs; once a pipeline.
  double open_ms;
  // Opening graphs during the generation, and giving them back.
  double reopen_ms;
  // Prompts to hidden states.
  double text_encoder_ms;
  // The picture to begin with to its latent, with its mask.
  double encoder_ms;
  // All steps of all pictures.
  double denoiser_ms;
  // Latents to pixels.
  double decoder_ms;
  // Estimates to previews.
  double preview_ms;
  // The whole generation, with everything above but the first opening.
  double total_ms;
  // The part of it inside ONNX Runtime.
  double graphs_ms;
  // The part of it that is safelight's own.
  double own_ms;
  // Prompts, or chunks of them, that came from the prompt cache on disk.
  uint64_t text_hits;
  // Prompts, or chunks of them, that a text encoder read.
  uint64_t text_misses;
} SafelightTimings;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The code of an error, one of SAFELIGHT_USAGE … SAFELIGHT_INTERNAL, which are the exit codes of the command
// safelight; 0 for NULL. Codes that a later version adds are other numbers: treat what you do not know as
// SAFELIGHT_INTERNAL.
int safelight_error_code(const struct SafelightError *error);

// What was attempted, what was found, and what to do next: UTF-8, for people, and no part of the interface. Valid until
// the error is freed; an empty text for NULL.
const char *safelight_error_message(const struct SafelightError *error);

// Gives an error back; nothing happens for NULL.
void safelight_error_free(struct SafelightError *error);

// The library's version, such as 0.1.0; that of the header is SAFELIGHT_VERSION. It stays as long as the process.
const char *safelight_version(void);

// Options that all have their defaults: what the target says, the first ONNX Runtime that is found, no processes; never
// NULL.
struct SafelightOptions *safelight_options_new(void);

// Sets an option to a value, in the place of what it was; docs/embedding-c.md lists them. Both texts are copied. After an
// error the options are what they were.
//
// Errors: SAFELIGHT_USAGE for a name that is no option's, with the names that are, and for a text that is no value of
// it.
struct SafelightError *safelight_options_set(struct SafelightOptions *options,
                                             const char *name,
                                             const char *value);

// Gives options back; nothing happens for NULL.
void safelight_options_free(struct SafelightOptions *options);

// A request whose fields all have their defaults: the model's, one picture, seed 0; never NULL.
struct SafelightRequest *safelight_request_new(void);

// Sets a field to a value, in the place of what it was. Names and values are those of the command's options, such as
// "steps", "4"; what is a switch there is "true" or "false" here. docs/embedding-c.md lists them. Both texts are
// copied. After an error the request is what it was.
//
// Errors: SAFELIGHT_USAGE for a name that is no field's, with the names that are, and for a text that is no value of
// it. Whether model and target go along with a value is told by safelight_generate.
struct SafelightError *safelight_request_set(struct SafelightRequest *request,
                                             const char *name,
                                             const char *value);

// Sets the picture to begin with: rows of 8-bit red, green and blue from the top, stride bytes from one to the next.
// It is copied, and resized to the size of the pictures. "strength" says how much of it noise takes.
//
// Errors: SAFELIGHT_USAGE for NULL, for no pixels and for a stride that is less than a row.
struct SafelightError *safelight_request_set_image(struct SafelightRequest *request,
                                                   const uint8_t *pixels,
                                                   size_t width,
                                                   size_t height,
                                                   size_t stride);

// Sets which part of the picture is painted anew: rows of bytes from the top, 128 or more is painted. As large as the
// picture. It is copied.
//
// Errors: as safelight_request_set_image.
struct SafelightError *safelight_request_set_mask(struct SafelightRequest *request,
                                                  const uint8_t *pixels,
                                                  size_t width,
                                                  size_t height,
                                                  size_t stride);

// Gives a request back; what is made of it goes on. Nothing happens for NULL.
void safelight_request_free(struct SafelightRequest *request);

// A handle that nobody has used yet; never NULL.
struct SafelightCancel *safelight_cancel_new(void);

// Stops what runs under the handle, between two nodes of a graph, and whatever would start under it later, with
// SAFELIGHT_CANCELLED. Any thread may call it, at any time; a signal handler must not. Nothing happens for NULL.
void safelight_cancel(const struct SafelightCancel *cancel);

// Gives the handle back; what runs under it goes on. Nothing happens for NULL.
void safelight_cancel_free(struct SafelightCancel *cancel);

// Opens a model's graphs as a target says, for pictures of the model's own size, one at a time; other requests open what
// they need once more. target is the path of a target file, model that of a folder with a model.yaml or an exported
// diffusers pipeline. options may be NULL. *pipeline is NULL after an error.
//
// The first call of a process opens ONNX Runtime: the option library, else the variable ORT_DYLIB_PATH, else beside
// the executable and in its ../lib and ../lib/safelight, beside this library and in its ../lib and safelight, in
// the user's data folder, in the active Python environment, else what the system's loader finds. It sets the variable ORT_DISABLE_TELEMETRY to 1 unless it
// is: set it yourself where other threads may read the environment meanwhile.
//
// Errors: SAFELIGHT_USAGE for target and options, SAFELIGHT_MODEL for the folder and its graphs, SAFELIGHT_LIBRARY
// for ONNX Runtime and providers, SAFELIGHT_LIMIT, SAFELIGHT_IO.
struct SafelightError *safelight_pipeline_open(const char *target,
                                               const char *model,
                                               const struct SafelightOptions *options,
                                               struct SafelightPipeline **pipeline);

// Makes the pictures of a request. watch may be NULL. *output is the caller's; it is NULL after an error.
//
// Errors: SAFELIGHT_USAGE for a request that cannot be, and for a pipeline that another call uses at this moment;
// SAFELIGHT_LIMIT, SAFELIGHT_NUMERIC, SAFELIGHT_CANCELLED, SAFELIGHT_MODEL, SAFELIGHT_LIBRARY. After any of
// them the pipeline is as good as before. After SAFELIGHT_INTERNAL it may refuse to do anything more: free it.
struct SafelightError *safelight_generate(struct SafelightPipeline *pipeline,
                                          const struct SafelightRequest *request,
                                          const struct SafelightWatch *watch,
                                          struct SafelightOutput **output);

// Makes the requests whose numbers came with the model, and compares initial noise, each step's estimate, the final latent
// and the picture. watch may be NULL. *output has no pictures, and the comparisons as its report.
//
// Errors: as safelight_generate; SAFELIGHT_NUMERIC where something is beyond its bound, NaN or black: then *output
// has the report nevertheless. SAFELIGHT_USAGE for a model without such numbers.
struct SafelightError *safelight_verify(struct SafelightPipeline *pipeline,
                                        const struct SafelightWatch *watch,
                                        struct SafelightOutput **output);

// Gives a pipeline back; nothing happens for NULL. Where another thread, or the caller further up, generates with it at
// this moment, its memory is given back when that has ended.
void safelight_pipeline_free(struct SafelightPipeline *pipeline);

// How many pictures an output has; 0 for NULL.
size_t safelight_output_count(const struct SafelightOutput *output);

// Tells of the picture index, from 0, where it is. Pixels and provenance belong to the output, and are valid until it is
// freed.
//
// Errors: SAFELIGHT_USAGE where there is no such picture.
struct SafelightError *safelight_output_picture(const struct SafelightOutput *output,
                                                size_t index,
                                                struct SafelightPicture *picture);

// Writes the picture index to a file, under a temporary name that becomes path once it is whole. The name says the
// format: .png, which carries the provenance, .jpg or .webp.
//
// Errors: SAFELIGHT_USAGE where there is no such picture or format, SAFELIGHT_IO for the file.
struct SafelightError *safelight_output_save(const struct SafelightOutput *output, size_t index, const char *path);

// Tells where the time went.
//
// Errors: SAFELIGHT_USAGE for NULL and for another version's struct.
struct SafelightError *safelight_output_timings(const struct SafelightOutput *output, struct SafelightTimings *timings);

// All there is to tell as JSON: of a generation each picture's provenance, timings with each step's, warnings, what became
// of caches; of a verification each comparison. Valid until the output is freed; NULL for NULL.
const char *safelight_output_report(const struct SafelightOutput *output);

// Gives an output back, and with it all that was told of it; nothing happens for NULL.
void safelight_output_free(struct SafelightOutput *output);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SAFELIGHT_H */
