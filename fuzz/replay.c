/* Replays a fuzz corpus without libFuzzer: `replay_X FOLDER` runs every file of the folder through the entry
 * point of fuzz_X.c, whole, cut short at many lengths, and with bytes changed. The same inputs every time.
 * `replay_X FILE` runs that file alone, as it is: for looking at one finding. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CUTS_MOST = 300, CHANGES_MOST = 600, DAMAGE_BYTES_PER_FILE = 64 * 1024 * 1024 };

typedef struct corpus_file {
    uint8_t *data;
    size_t size;
} corpus_file;

static unsigned long inputs;

/* An allocation of exactly `size` bytes each time, so that a sanitizer sees a read behind the end. */
static void replay_one(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) {
        fprintf(stderr, "replay: no memory for %zu bytes\n", size);
        exit(3);
    }
    memcpy(copy, data, size);
    const char *save = getenv("REPLAY_SAVE");
    FILE *f = save ? fopen(save, "wb") : NULL;
    if (f && (fwrite(copy, 1, size, f) != size || fclose(f) != 0))
        perror(save);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    inputs++;
}

/* SplitMix64 (Steele, Lea and Flood 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Large files get fewer damaged copies, so that a corpus replays in seconds under sanitizers. */
static size_t copies(const corpus_file *file, size_t most)
{
    size_t affordable = (size_t)DAMAGE_BYTES_PER_FILE / 2 / (file->size + 1);
    return affordable < 16 ? 16 : affordable < most ? affordable : most;
}

static void replay_cut(const corpus_file *file, uint64_t *random)
{
    size_t n = copies(file, CUTS_MOST);
    if (file->size <= n) {
        for (size_t size = 0; size < file->size; size++)
            replay_one(file->data, size);
        return;
    }
    replay_one(file->data, 0);
    replay_one(file->data, file->size - 1);
    for (size_t i = 1; i < n; i++)
        replay_one(file->data, next_random(random) % file->size);
}

static void change(uint8_t *data, size_t size, uint64_t random)
{
    size_t at = (size_t)(random >> 16) % size;
    /* Half of the changes hit the first 256 bytes: that is where headers, versions and counts are. */
    if (random & 1 && size > 256)
        at %= 256;
    size_t field = size - at < 8 ? size - at : 8;
    switch (random >> 1 & 7) {
    case 0:
        memset(data + at, 0xff, field); /* the largest count */
        break;
    case 1:
        memset(data + at, 0, field);
        break;
    case 2:
        memset(data + at, 0xff, field > 4 ? 4 : field);
        break;
    case 3:
        data[at] = (uint8_t)(random >> 8);
        break;
    default:
        data[at] ^= (uint8_t)(1u << (random >> 8 & 7));
    }
}

static void replay_changed(const corpus_file *file, uint64_t *random)
{
    if (file->size == 0)
        return;
    uint8_t *copy = malloc(file->size);
    if (!copy) {
        fprintf(stderr, "replay: no memory for %zu bytes\n", file->size);
        exit(3);
    }
    for (size_t i = copies(file, CHANGES_MOST); i > 0; i--) {
        memcpy(copy, file->data, file->size);
        for (uint64_t times = next_random(random) % 3 + 1; times > 0; times--)
            change(copy, file->size, next_random(random));
        replay_one(copy, file->size);
    }
    free(copy);
}

static int load(const char *path, corpus_file *file)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) != 0) {
        perror(path);
        return -1;
    }
    file->size = (size_t)st.st_size;
    file->data = malloc(file->size + 1);
    size_t got = file->data ? fread(file->data, 1, file->size, f) : 0;
    fclose(f);
    return file->data && got == file->size ? 0 : -1;
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int replay_folder(const char *folder)
{
    struct dirent **names = NULL;
    int n = scandir(folder, &names, visible, alphasort);
    if (n <= 0) {
        fprintf(stderr, "replay: the corpus %s is missing or empty\n", folder);
        return 1;
    }
    int result = 0;
    for (int i = 0; i < n; i++) {
        char path[4096];
        corpus_file file = {0};
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        if (load(path, &file) != 0) {
            fprintf(stderr, "replay: cannot read %s\n", path);
            result = 1;
        } else {
            uint64_t random = file.size;
            replay_one(file.data, file.size);
            replay_cut(&file, &random);
            replay_changed(&file, &random);
        }
        free(file.data);
        free(names[i]);
    }
    free(names);
    printf("replayed %lu inputs made from %d files of %s\n", inputs, n, folder);
    return result;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER|FILE\n", argv[0]);
        return 2;
    }
    struct stat st;
    if (stat(argv[1], &st) != 0 || S_ISDIR(st.st_mode))
        return replay_folder(argv[1]);
    corpus_file file = {0};
    if (load(argv[1], &file) != 0)
        return 1;
    replay_one(file.data, file.size);
    free(file.data);
    return 0;
}
