/* gguf_type.c: facts of the value and tensor types of GGUF; see gguf.h. */
#include "decoder/model/gguf.h"

#include <errno.h>
#include <strings.h>

static const struct {
    const char *name;
    uint16_t elements, bytes; /* per block */
} types[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 36},      [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},  [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},   [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},
};
#define N_TYPES (sizeof types / sizeof types[0])

const char *ggml_type_name(uint32_t type)
{
    return type < N_TYPES ? types[type].name : NULL;
}

bool ggml_type_supported(uint32_t type)
{
    switch (type) {
    case GGML_F32:
    case GGML_F16:
    case GGML_BF16:
    case GGML_Q8_0:
    case GGML_Q4_0:
    case GGML_Q4_K:
    case GGML_Q6_K:
        return true;
    default:
        return false;
    }
}

int ggml_type_by_name(const char *name, uint32_t *type)
{
    for (uint32_t i = 0; i < N_TYPES; i++)
        if (ggml_type_supported(i) && strcasecmp(types[i].name, name) == 0) {
            *type = i;
            return 0;
        }
    return -EINVAL;
}

uint64_t ggml_type_block(uint32_t type, uint32_t *n_elements)
{
    if (!ggml_type_name(type))
        return 0;
    *n_elements = types[type].elements;
    return types[type].bytes;
}

uint64_t ggml_row_bytes(uint32_t type, uint64_t n)
{
    uint32_t elements;
    uint64_t bytes = ggml_type_block(type, &elements), row;
    if (!bytes || n % elements || __builtin_mul_overflow(n / elements, bytes, &row))
        return 0;
    return row;
}

size_t gguf_scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[GGUF_N_VALUE_TYPES] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2,  [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
        [GGUF_F32] = 4, [GGUF_U64] = 8, [GGUF_BOOL] = 1, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    return type < GGUF_N_VALUE_TYPES ? bytes[type] : 0;
}
