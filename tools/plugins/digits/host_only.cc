// libdigits.so: the host computes, whatever the worker has.
#include "tools/plugins/digits/classifier.h"

namespace forge::digits {

std::unique_ptr<Classifier> make_classifier() { return make_host_classifier(); }

}  // namespace forge::digits
