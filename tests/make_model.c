/* Writes a tiny random model for tests of the program: make_model FILE SEED CONTEXT */
#include "gguf_writer.h"

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s FILE SEED CONTEXT\n", argv[0]);
        return 2;
    }
    gw_model m = gw_model_default();
    m.C = 128;
    m.H = 2;
    m.HK = 1;
    m.seed = strtoull(argv[2], NULL, 10);
    m.context = (uint32_t)strtoul(argv[3], NULL, 10);
    gw_write_model(&m, argv[1]);
    return 0;
}
