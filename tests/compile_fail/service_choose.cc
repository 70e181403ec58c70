// MESSAGE: services support route() and fanout()
#include "prelude.h"

void misuse(const ServiceEndpoint& endpoint) { endpoint.choose(1); }
