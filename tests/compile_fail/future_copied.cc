// MESSAGE: deleted
#include "prelude.h"

forge::Future<int> misuse(forge::Future<int>& future) { return future; }
