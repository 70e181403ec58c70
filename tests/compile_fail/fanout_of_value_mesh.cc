// MESSAGE: fanout() answers rank 0 of each replica; bind the plain result
#include "prelude.h"

void misuse(const RankEndpoint& endpoint) { (void)endpoint.fanout(1); }
