// Everything a user of forge needs. Start reading at controller.h and plugin.h.
#pragma once

#include <forge/actor.h>
#include <forge/autoscaling.h>
#include <forge/controller.h>
#include <forge/device.h>
#include <forge/endpoint.h>
#include <forge/error.h>
#include <forge/future.h>
#include <forge/options.h>
#include <forge/payload.h>
#include <forge/plugin.h>
#include <forge/result.h>
#include <forge/router.h>
#include <forge/service.h>
#include <forge/task.h>
#include <forge/tensor.h>
#include <forge/wire.h>
