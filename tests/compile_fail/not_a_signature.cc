// MESSAGE: written as Result(Arguments...)
#include "prelude.h"

void misuse(const forge::Service& service) { (void)service.endpoint<std::int64_t>("f"); }
