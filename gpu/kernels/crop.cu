// Rotated crops of faces and letter-boxes of whole pictures, by one bilinear sampler.
//
// Twin of the CPU back end's crop.rs: positions in units of 2^-20 pixels, samples at 1/64 of a pixel, rounded to
// whole levels. Where both have the same map, they agree bit for bit.

#define FRACTION_BITS 20

/// A map from indices of a network's input to the picture: `x = m[0][0] u + m[0][1] v + m[0][2]`, y by the second row.
struct Affine2 {
    float m[2][3];
};

/// The same in units of 2^-20 pixels, with 1/128 pixel added, so that cutting a position to 1/64 rounds it.
struct FixedMap {
    i64 m[2][3];
};

/// The map from pixel indices of a square crop of `size` pixels to the picture, corner to corner.
static __device__ Affine2 image_from_crop(const Roi &roi, u32 size) {
    // In double, so that all of the machines round to the same float, nearly always.
    const float sine = (float)sin((double)roi.rotation), cosine = (float)cos((double)roi.rotation);
    const float sx = roi.width / (float)size, sy = roi.height / (float)size;
    const float half_width = roi.width / 2.0f, half_height = roi.height / 2.0f;
    return {{{cosine * sx, -sine * sy, roi.cx - cosine * half_width + sine * half_height},
             {sine * sx, cosine * sy, roi.cy - sine * half_width - cosine * half_height}}};
}

/// A coordinate in units of 2^-20 pixels; what is too large becomes the largest, and what is no number 0.
static __device__ i64 to_fixed(float value) {
    const double scaled = (double)value * (double)(1 << FRACTION_BITS);
    const i64 largest = 0x7fffffffffffffffLL;
    if (scaled != scaled) {
        return 0;
    }
    return scaled >= 9223372036854775808.0 ? largest : scaled < -9223372036854775808.0 ? -largest - 1 : (i64)scaled;
}

static __device__ FixedMap to_fixed(const Affine2 &map) {
    FixedMap fixed;
    for (int row = 0; row < 2; ++row) {
        for (int i = 0; i < 3; ++i) {
            fixed.m[row][i] = to_fixed(map.m[row][i]);
        }
        fixed.m[row][2] = (i64)((u64)fixed.m[row][2] + (1u << (FRACTION_BITS - 7)));
    }
    return fixed;
}

/// Where input pixel (u, v) looks along one axis. Unsigned, because far away it may run over.
static __device__ i64 position(const i64 row[3], u32 u, u32 v) {
    return (i64)((u64)row[2] + (u64)row[0] * u + (u64)row[1] * v);
}

/// What the landmark network wants to see: edges go on outside the picture, levels are 0 to 1.
struct CropLook {
    static const bool BLACK_OUTSIDE = false;
    static __device__ float value(int level) { return (float)level * (1.0f / 255.0f); }
};

/// What BlazeFace wants to see: black outside the picture, levels are -1 to 1.
struct BoxLook {
    static const bool BLACK_OUTSIDE = true;
    static __device__ float value(int level) { return (float)level * (1.0f / 127.5f) + -1.0f; }
};

/// A pixel that may lie outside the picture.
template <u32 READER, class LOOK> static __device__ u32 tap(const Frame &frame, i64 column, i64 row) {
    const i64 x = clamp64(column, 0, (i64)frame.width - 1), y = clamp64(row, 0, (i64)frame.height - 1);
    if (LOOK::BLACK_OUTSIDE && (x != column || y != row)) {
        return 0;
    }
    return read_rgb<READER>(frame, (u32)x, (u32)y);
}

/// One channel of four pixels, mixed and rounded to a whole level; `right` and `down` are 1/64.
static __device__ int mix(u32 left_above, u32 right_above, u32 left_below, u32 right_below, int shift, int right, int down) {
    const int a = left_above >> shift & 0xff, b = right_above >> shift & 0xff;
    const int c = left_below >> shift & 0xff, d = right_below >> shift & 0xff;
    const int above = a * 64 + (b - a) * right, below = c * 64 + (d - c) * right;
    return (above * 64 + (below - above) * down + 2048) >> 12;
}

/// This thread's pixels of one input: three planes of `size * size`, red, green, blue.
template <u32 READER, class LOOK>
static __device__ void sample(const Frame &frame, const FixedMap &map, u32 size, LOOK, float *out) {
    const u32 plane = size * size;
    for (u32 v = blockIdx.y; v < size; v += gridDim.y) {
        for (u32 u = blockIdx.x * blockDim.x + threadIdx.x; u < size; u += gridDim.x * blockDim.x) {
            const i64 x = position(map.m[0], u, v), y = position(map.m[1], u, v);
            const i64 column = x >> FRACTION_BITS, row = y >> FRACTION_BITS;
            const u32 left_above = tap<READER, LOOK>(frame, column, row);
            const u32 right_above = tap<READER, LOOK>(frame, column + 1, row);
            const u32 left_below = tap<READER, LOOK>(frame, column, row + 1);
            const u32 right_below = tap<READER, LOOK>(frame, column + 1, row + 1);
            const int right = (int)(x >> (FRACTION_BITS - 6)) & 63, down = (int)(y >> (FRACTION_BITS - 6)) & 63;
            float *to = out + v * size + u;
            for (int channel = 0; channel < 3; ++channel) {
                const int level = mix(left_above, right_above, left_below, right_below, channel * 8, right, down);
                to[channel * plane] = LOOK::value(level);
            }
        }
    }
}

/// The landmark network's input: `count` faces, each three planes (red, green, blue) of CROP × CROP, 0 to 1.
/// Slots without a frame become black. Grid: x and threads along a line, y lines, z faces.
extern "C" __global__ void crop_faces(const Frame *__restrict__ frames, const FaceSlot *__restrict__ slots, u32 count,
                                      float *__restrict__ out) {
    __shared__ FixedMap map;
    for (u32 face = blockIdx.z; face < count; face += gridDim.z) {
        const FaceSlot slot = slots[face];
        float *planes = out + (u64)face * 3 * CROP * CROP;
        if (threadIdx.x == 0) {
            map = to_fixed(image_from_crop(slot.roi, CROP));
        }
        __syncthreads();
        if (slot.frame != NO_FRAME) {
            const Frame frame = frames[slot.frame];
            WITH_READER(frame, sample, frame, map, CROP, CropLook(), planes)
        } else {
            for (u32 i = layer_index(); i < 3 * CROP * CROP; i += layer_size()) {
                planes[i] = 0.0f;
            }
        }
        // Before the next face's map is written.
        __syncthreads();
    }
}

/// BlazeFace's input: `count` pictures, each three planes (red, green, blue) of `size` × `size`, -1 to 1, black
/// outside the picture. Grid: x and threads along a line, y lines, z pictures.
extern "C" __global__ void letterbox(const Frame *__restrict__ frames, u32 count, u32 size, float *__restrict__ out) {
    for (u32 at = blockIdx.z; at < count; at += gridDim.z) {
        const Frame frame = frames[at];
        const Letterbox box = letterbox_of(frame);
        const float half = box.side / 2.0f;
        const Roi whole = {box.x0 + half, box.y0 + half, box.side, box.side, 0.0f};
        const FixedMap map = to_fixed(image_from_crop(whole, size));
        WITH_READER(frame, sample, frame, map, size, BoxLook(), out + (u64)at * 3 * size * size)
    }
}
