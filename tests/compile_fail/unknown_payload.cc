// MESSAGE: this type cannot be an argument or result of an endpoint
#include "prelude.h"

void misuse(const forge::Service& service) { (void)service.endpoint<Unknown()>("f"); }
