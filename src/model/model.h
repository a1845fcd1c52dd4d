/* A loaded model: hyperparameters, packed weights, tokenizer, template, digest. Immutable after
 * fp_model_open. */
#ifndef FP_MODEL_MODEL_H
#define FP_MODEL_MODEL_H
#include "core/arena.h"
#include "core/team.h"
#include "exact/rope.h"
#include "fieldprint/model.h"
#include "kernel/kernel.h"
#include "model/chat.h"

typedef struct fp__hparams {
    size_t layers, width, heads, kv_heads, head_dim, ffn_width, vocabulary, context; /* L C H HK d F V */
    size_t n_rot;
    fp__rope_layout rope_layout;
    float rope_base, norm_epsilon;
} fp__hparams;

/* Vectors are NULL where the architecture has none. All are copies (float, owned by the model's arena). */
typedef struct fp__layer {
    const float *attn_norm, *ffn_norm;     /* [C] */
    const float *q_norm, *k_norm;          /* [d]: qwen3 */
    const float *q_bias, *k_bias, *v_bias; /* [H·d], [HK·d], [HK·d]: qwen2 */
    fp__weight wq, wk, wv, wo;             /* [H·d][C], [HK·d][C], [HK·d][C], [C][H·d] */
    fp__weight gate, up, down;             /* [F][C], [F][C], [C][F] */
} fp__layer;

struct fp_model {
    char *path; /* that it was opened from */
    fp__gguf *gguf;
    fp__tokenizer *tokenizer;
    fp__chat_template *chat; /* NULL: the file has none */
    fp__hparams hp;
    fp__layer *layers;        /* [L] */
    fp__weight embedding;     /* [V][C] */
    fp__weight output;        /* [V][C]; the same data when tied */
    const float *output_norm; /* [C] */
    fp__rope_plan rope;
    uint8_t *packed; /* all packed matrices */
    size_t packed_bytes;
    fp__arena *arena;
    const fp__kernel_ops *ops;
    uint8_t digest[32], gguf_sha256[32];
    char architecture[16], name[128], types[160];
    uint64_t parameters;
    bool has_weights;
};
#endif
