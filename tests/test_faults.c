/* Faults of every kind while answers are generated: fieldprint/faults.h, in short. */
#include "engine_lab.h"
#include "fieldprint/faults.h"

static void test_faults(void **state)
{
    (void)state;
    static fp_fault_result r; /* large */
    gw_model m = gw_model_default();
    m.C = 128;
    m.H = 2;
    m.HK = 1;
    m.context = 1024;
    fp_model *model = el_open(&m);
    fp_fault_options o = {.folder = el_dir,
                          .seed = 11,
                          .faults = EL_SANITIZED ? 60 : 240,
                          .clean_pages = EL_SANITIZED ? 200 : 20000};
    const char *seed = getenv("FIELDPRINT_FAULT_SEED"), *faults = getenv("FIELDPRINT_FAULTS");
    if (seed)
        o.seed = strtoull(seed, NULL, 10);
    if (faults)
        o.faults = (uint32_t)strtoul(faults, NULL, 10);
    ok(fp_faults_run(model, &o, &r));
    for (size_t i = 0; i < r.problems; i++)
        print_error("%s\n", r.problem[i]);
    assert_int_equal(r.violations, 0);
    assert_int_equal(r.false_alarms, 0);
    assert_int_equal(r.all.missed, 0);
    assert_int_equal(r.all.outside, 0);
    assert_true(r.all.windowed > o.faults / 8 && r.all.window_share_max > 0);
    assert_true(r.all.injected >= o.faults && r.all.corrected > o.faults / 8 &&
                r.clean_pages >= o.clean_pages);
    fp_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_faults, el_set_up, el_tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
