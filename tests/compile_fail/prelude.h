// Endpoints of a service and of a mesh, to be misused.
#pragma once

#include <forge/forge.h>

#include <cstdint>
#include <string>
#include <vector>

using ServiceEndpoint = forge::Endpoint<std::int64_t(std::int64_t)>;
using MeshEndpoint = forge::MeshEndpoint<std::int64_t(std::int64_t)>;
using RankEndpoint = forge::Endpoint<forge::ValueMesh<std::int64_t>(std::int64_t)>;

struct Unknown {};
