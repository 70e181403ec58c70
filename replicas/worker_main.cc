// forge-worker: the program the controller starts for every rank.
#include "replicas/worker.h"

int main(int argc, char** argv) { return forge::replicas::run_worker(argc, argv); }
