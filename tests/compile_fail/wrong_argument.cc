// MESSAGE: an argument does not convert to what the endpoint takes
#include "prelude.h"

void misuse(const ServiceEndpoint& endpoint) { (void)endpoint.route("one"); }
