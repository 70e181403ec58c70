// A shared object that is no plugin.
extern "C" int forge_test_no_symbol() { return 1; }
