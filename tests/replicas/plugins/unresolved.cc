// A shared object that was not linked with all it needs.
extern "C" int forge_test_defined_nowhere();
extern "C" int forge_test_unresolved() { return forge_test_defined_nowhere(); }
