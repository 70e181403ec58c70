// MESSAGE: actor meshes support choose(), call_one(), call() and broadcast()
#include "prelude.h"

void misuse(const MeshEndpoint& endpoint) { endpoint.route(1); }
