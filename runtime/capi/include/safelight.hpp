// safelight for C++11: owners that give back what they hold, and errors that are thrown. Header only; link as for C.
#ifndef SAFELIGHT_HPP
#define SAFELIGHT_HPP

#include "safelight.h"

#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

namespace safelight {

// An error of the library; code() is one of SAFELIGHT_USAGE ... SAFELIGHT_INTERNAL.
class Error : public std::runtime_error {
 public:
  explicit Error(SafelightError *error)
      : std::runtime_error(safelight_error_message(error)), code_(safelight_error_code(error)) {
    safelight_error_free(error);
  }
  int code() const { return code_; }

 private:
  int code_;
};

inline void check(SafelightError *error) {
  if (error != nullptr) throw Error(error);
}

template <typename T, void (*give_back)(T *)> struct Free {
  void operator()(T *owned) const { give_back(owned); }
};
template <typename T, void (*give_back)(T *)> using Owned = std::unique_ptr<T, Free<T, give_back>>;

// How a pipeline is opened: names and values of the command line.
class Options {
 public:
  Options() : options_(safelight_options_new()) {}
  Options &set(const std::string &name, const std::string &value) {
    check(safelight_options_set(options_.get(), name.c_str(), value.c_str()));
    return *this;
  }
  const SafelightOptions *get() const { return options_.get(); }

 private:
  Owned<SafelightOptions, safelight_options_free> options_;
};

// What to make: names and values of the command line.
class Request {
 public:
  Request() : request_(safelight_request_new()) {}
  Request &set(const std::string &name, const std::string &value) {
    check(safelight_request_set(request_.get(), name.c_str(), value.c_str()));
    return *this;
  }
  Request &set_image(const uint8_t *pixels, size_t width, size_t height, size_t stride) {
    check(safelight_request_set_image(request_.get(), pixels, width, height, stride));
    return *this;
  }
  Request &set_mask(const uint8_t *pixels, size_t width, size_t height, size_t stride) {
    check(safelight_request_set_mask(request_.get(), pixels, width, height, stride));
    return *this;
  }
  const SafelightRequest *get() const { return request_.get(); }

 private:
  Owned<SafelightRequest, safelight_request_free> request_;
};

// Stops what runs under it, from any thread; once used it stays so.
class Cancel {
 public:
  Cancel() : cancel_(safelight_cancel_new()) {}
  void cancel() const { safelight_cancel(cancel_.get()); }
  const SafelightCancel *get() const { return cancel_.get(); }

 private:
  Owned<SafelightCancel, safelight_cancel_free> cancel_;
};

// Pictures; what it tells of them is valid as long as it is.
class Output {
 public:
  explicit Output(SafelightOutput *output) : output_(output) {}
  size_t count() const { return safelight_output_count(output_.get()); }
  SafelightPicture picture(size_t index) const {
    SafelightPicture picture = SafelightPicture();
    picture.size = sizeof picture;
    check(safelight_output_picture(output_.get(), index, &picture));
    return picture;
  }
  SafelightTimings timings() const {
    SafelightTimings timings = SafelightTimings();
    timings.size = sizeof timings;
    check(safelight_output_timings(output_.get(), &timings));
    return timings;
  }
  void save(size_t index, const std::string &path) const { check(safelight_output_save(output_.get(), index, path.c_str())); }
  const char *report() const { return safelight_output_report(output_.get()); }

 private:
  Owned<SafelightOutput, safelight_output_free> output_;
};

// Called after each step and each picture; false cancels. What it throws cancels, and leaves generate().
using OnProgress = std::function<bool(const SafelightProgress &)>;

class Pipeline {
 public:
  Pipeline(const std::string &target, const std::string &model, const Options &options = Options()) {
    SafelightPipeline *opened = nullptr;
    check(safelight_pipeline_open(target.c_str(), model.c_str(), options.get(), &opened));
    pipeline_.reset(opened);
  }
  Output generate(const Request &request, OnProgress on_progress = nullptr, const Cancel &cancel = Cancel()) {
    Heard heard = {on_progress, nullptr};
    SafelightWatch watch = {sizeof watch, &heard, cancel.get(), on_progress ? &hear : nullptr, nullptr, nullptr};
    SafelightOutput *output = nullptr;
    SafelightError *error = safelight_generate(pipeline_.get(), request.get(), &watch, &output);
    if (heard.thrown) {
      safelight_error_free(error);
      safelight_output_free(output);
      std::rethrow_exception(heard.thrown);
    }
    check(error);
    return Output(output);
  }
  SafelightPipeline *get() const { return pipeline_.get(); }

 private:
  struct Heard { OnProgress tell; std::exception_ptr thrown; };
  static int hear(void *user, const SafelightProgress *progress) {
    Heard &heard = *static_cast<Heard *>(user);
    try {
      return heard.tell(*progress) ? 0 : 1;
    } catch (...) {  // Nothing may be thrown through the library.
      heard.thrown = std::current_exception();
      return 1;
    }
  }
  Owned<SafelightPipeline, safelight_pipeline_free> pipeline_;
};

}  // namespace safelight

#endif
