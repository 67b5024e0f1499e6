// From a camera's bytes to RGB, one pixel at a time. BT.601 with limited range for YUYV and NV12.
//
// The integer formulas are those by which the CPU back end's converter works with AVX2, level for level. That
// converter does the last columns of a YUYV part, and everything on a processor without AVX2, by other
// formulas: those differ by up to 1 level, and for Y below 16, which is no colour, by up to 19.

/// A pixel's levels: red in the lowest byte, then green and blue.
static __device__ u32 pack_rgb(int red, int green, int blue) {
    return (u32)red | (u32)green << 8 | (u32)blue << 16;
}

static __device__ int to_byte(int level) { return level < 0 ? 0 : level > 255 ? 255 : level; }

/// Y from its black on: what is below is black too.
static __device__ int luma(int y) { return y < 16 ? 0 : y - 16; }

/// Weights are multiples of 1/64.
static __device__ u32 rgb_of_yuyv(int y, int u, int v) {
    const int light = 75 * luma(y), cb = u - 128, cr = v - 128;
    // A half goes down.
    const int red = (light + 102 * cr + 31) >> 6;
    const int green = (light - 52 * cr - 25 * cb + 31) >> 6;
    const int blue = (light + 129 * cb + 31) >> 6;
    return pack_rgb(to_byte(red), to_byte(green), to_byte(blue));
}

/// A quarter level times a multiple of 1/8192, rounded to a whole level; a half goes up.
static __device__ int scale_nv12(int quarters, int weight) { return (quarters * weight + 0x4000) >> 15; }

/// Each term is rounded to a whole level.
static __device__ u32 rgb_of_nv12(int y, int u, int v) {
    const int light = scale_nv12(luma(y) * 4, 9539), cb = (u - 128) * 4, cr = (v - 128) * 4;
    const int red = light + scale_nv12(cr, 13075);
    const int green = light - (scale_nv12(cr, 6660) + scale_nv12(cb, 3209));
    const int blue = light + scale_nv12(cb, 16525);
    return pack_rgb(to_byte(red), to_byte(green), to_byte(blue));
}

/// YUYV whose lines begin at multiples of four bytes: two pixels are one word. Only `reader_of` says so.
#define YUYV_WORDS 5u

/// How a frame's pixels are read best: a format, or `YUYV_WORDS`.
static __device__ u32 reader_of(const Frame &frame) {
    const bool by_words = (((u64)frame.bytes | frame.stride) & 3) == 0;
    return frame.format == YUYV && by_words ? YUYV_WORDS : frame.format;
}

/// The pixel in a column and a line of the frame. `READER` is that of the frame.
template <u32 READER> static __device__ u32 read_rgb(const Frame &frame, u32 x, u32 y) {
    const u8 *line = frame.bytes + (u64)frame.stride * y;
    if (READER == YUYV_WORDS) {
        const u32 pair = ((const u32 *)line)[x >> 1];
        return rgb_of_yuyv(pair >> (x & 1) * 16 & 0xff, pair >> 8 & 0xff, pair >> 24);
    }
    if (READER == YUYV) {
        const u8 *pair = line + (x >> 1) * 4;
        return rgb_of_yuyv(line[x * 2], pair[1], pair[3]);
    }
    if (READER == NV12) {
        const u8 *chroma = frame.bytes + (u64)frame.stride * (frame.height + (y >> 1)) + (x & ~1u);
        return rgb_of_nv12(line[x], chroma[0], chroma[1]);
    }
    if (READER == GREY) {
        return line[x] * 0x010101u;
    }
    const u8 *pixel = line + x * 3;
    return READER == BGR24 ? pack_rgb(pixel[2], pixel[1], pixel[0]) : pack_rgb(pixel[0], pixel[1], pixel[2]);
}

/// Calls `WORK<reader>(…)` with the reader of a frame, so that it is not chosen for each pixel.
#define WITH_READER(FRAME, WORK, ...)                                                                                  \
    switch (reader_of(FRAME)) {                                                                                        \
    case YUYV_WORDS: WORK<YUYV_WORDS>(__VA_ARGS__); break;                                                             \
    case YUYV: WORK<YUYV>(__VA_ARGS__); break;                                                                         \
    case NV12: WORK<NV12>(__VA_ARGS__); break;                                                                         \
    case GREY: WORK<GREY>(__VA_ARGS__); break;                                                                         \
    case BGR24: WORK<BGR24>(__VA_ARGS__); break;                                                                       \
    default: WORK<RGB24>(__VA_ARGS__); break;                                                                          \
    }
