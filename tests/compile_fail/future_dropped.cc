// MESSAGE: nodiscard
#include "prelude.h"

void misuse(const ServiceEndpoint& endpoint) { endpoint.route(1); }
