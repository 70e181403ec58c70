// MESSAGE: the endpoint takes another number of arguments
#include "prelude.h"

void misuse(const ServiceEndpoint& endpoint) { (void)endpoint.route(1, 2); }
