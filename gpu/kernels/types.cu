// What host and kernels hand each other, and the few helpers that every kernel uses.
//
// The program is types.cu, colour.cu, crop.cu, shrink.cu, detect.cu and faces.cu as one text, in this order;
// none of them includes anything. It must be compiled without contraction (`--fmad=false`), because the CPU
// back end, whose twins these kernels are, rounds after each multiplication.
//
// Every kernel takes any number of blocks along x, y and z and any number of threads along x (1 along y and z):
// each of them goes over the work in strides. What the axes are best spread over is said at the kernel.
//
// All structs have the layout of `#[repr(C)]`; device pointers are 64 bits wide, all else is 32.
// Coordinates are pixels of the picture, x right, y down, (0, 0) the centre of the first pixel, unless said otherwise.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

/// Candidates of one frame that are kept; more are counted only.
#define MAX_CANDIDATES 1024u
/// Detections of one frame that are given back; more are counted only.
#define MAX_DETECTIONS 64u
/// In place of a frame's index: this slot of a batch is padding.
#define NO_FRAME 0xffffffffu
/// Points of a face.
#define LANDMARKS 478u
/// Side of the landmark network's input, pixels.
#define CROP 256u

/// Order and meaning of a picture's bytes. JPEG is decoded elsewhere, to RGB24.
enum Format { YUYV = 0, NV12 = 1, RGB24 = 2, BGR24 = 3, GREY = 4 };

/// A camera's picture in device memory, in the camera's own format.
struct Frame {
    /// Begins with the first line; NV12's plane of U and V follows after `stride * height` bytes.
    const u8 *bytes;
    /// Pixels, at least 1.
    u32 width;
    /// Pixels, at least 1.
    u32 height;
    /// Bytes from one line to the next, of both planes.
    u32 stride;
    /// One of `Format`.
    u32 format;
};
static_assert(sizeof(Frame) == 24, "packed as in Rust");

/// An upright box, pixels.
struct Box2 {
    float x0, y0, x1, y1;
};

/// A rotated region of a picture.
struct Roi {
    /// Centre, pixels.
    float cx, cy;
    /// Sides along the rotated axes, pixels.
    float width, height;
    /// Radians, clockwise in the picture.
    float rotation;
};

/// One place of a batch of faces.
struct FaceSlot {
    /// Where to look.
    Roi roi;
    /// Index in the table of frames, or `NO_FRAME`.
    u32 frame;
};
static_assert(sizeof(FaceSlot) == 24, "packed as in Rust");

/// This block's place among all blocks, and their number.
static __device__ u32 block_index() { return (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x; }
static __device__ u32 block_count() { return gridDim.x * gridDim.y * gridDim.z; }

/// This thread's place among those of all blocks with the same z, and their number.
static __device__ u32 layer_index() { return (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x; }
static __device__ u32 layer_size() { return gridDim.x * gridDim.y * blockDim.x; }

static __device__ bool is_finite(float value) { return fabsf(value) <= 3.402823466e38f; }

static __device__ i64 clamp64(i64 value, i64 low, i64 high) { return value < low ? low : value > high ? high : value; }

/// `1 / (1 + e^-x)` with x clipped to ±100 first; NaN stays NaN.
static __device__ float sigmoid(float logit) {
    const float clipped = logit < -100.0f ? -100.0f : logit > 100.0f ? 100.0f : logit;
    return (float)(1.0 / (1.0 + exp(-(double)clipped)));
}

/// Edges are finite and there is an area.
static __device__ bool is_sound(const Box2 &box) {
    return is_finite(box.x0) && is_finite(box.y0) && is_finite(box.x1) && is_finite(box.y1)
        && box.x1 - box.x0 > 0.0f && box.y1 - box.y0 > 0.0f;
}

static __device__ Box2 box_from_center(float cx, float cy, float width, float height) {
    const float half_width = width / 2.0f, half_height = height / 2.0f;
    return {cx - half_width, cy - half_height, cx + half_width, cy + half_height};
}

/// The square about a picture's centre that BlazeFace sees, corner to corner.
struct Letterbox {
    /// Picture coordinates of its first pixel.
    float x0, y0;
    /// Picture pixels.
    float side;
};

static __device__ Letterbox letterbox_of(const Frame &frame) {
    const float side = (float)(frame.width > frame.height ? frame.width : frame.height);
    return {((float)frame.width - side) / 2.0f, ((float)frame.height - side) / 2.0f, side};
}
