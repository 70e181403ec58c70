// MESSAGE: this type cannot be an argument or result of an endpoint
#include "prelude.h"

void misuse(const forge::ActorFactory& factory) { factory.as_service(Unknown{}); }
