// libmlp.so: the host computes, whatever the worker has.
#include "tools/plugins/mlp/network.h"

namespace forge::mlp {

std::unique_ptr<Network> make_network(const Shape& shape) { return make_host_network(shape); }
std::unique_ptr<Sweeper> make_sweeper() { return make_host_sweeper(); }

}  // namespace forge::mlp
