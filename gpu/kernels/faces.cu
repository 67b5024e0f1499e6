// From the landmark network's outputs to faces: landmarks in the picture, presence, the next frame's region, and the
// blendshape network's input; and how sharp the network's input was.
//
// Twin of geometry.rs (landmarks_to_picture), roi.rs and blendshapes.rs in the models crate, and of the CPU back end's
// sharpness.rs.

/// Corners of the eyes on the picture's left and right in a frontal face.
#define LEFT_EYE_CORNER 33u
#define RIGHT_EYE_CORNER 263u
/// How much longer than the face's box its region is.
#define ROI_MARGIN 1.5f
/// Points that the blendshape network takes.
#define BLENDSHAPE_POINTS 146u

/// What there is in a batch of faces.
struct FacesHeader {
    /// Places in the batch.
    u32 slots;
    /// Of them, those that are no padding.
    u32 active;
    u32 reserved[2];
};
static_assert(sizeof(FacesHeader) == 16, "packed as in Rust");

/// What is known of one face beside its points.
struct FaceHead {
    /// 0 to 1; NaN where the network said NaN.
    float presence;
    /// The smallest upright box around all landmarks, picture pixels; `x0` is NaN where a landmark is not finite.
    Box2 box;
};
static_assert(sizeof(FaceHead) == 20, "packed as in Rust");

/// Where the results of a batch of `slots` faces go. The host lays them into one buffer, in this order, so that
/// one copy brings everything down; the blendshape network writes its output behind them.
struct FacesOut {
    /// One.
    FacesHeader *header;
    /// For each slot where to look for this face in its camera's next frame, with the same index of frame; `NO_FRAME`
    /// where no face is present. This is what `crop_faces` takes.
    FaceSlot *next;
    /// One for each slot.
    FaceHead *heads;
    /// For each slot LANDMARKS times x, y, z in picture pixels; nearer is negative.
    float *landmarks;
    /// For each slot BLENDSHAPE_POINTS times x, y in picture pixels: a network's input, which need not come down.
    float *blendshape_points;
};
static_assert(sizeof(FacesOut) == 40, "packed as in Rust");

/// Whole numbers in the order of floats, for those that are numbers.
static __device__ int ordered(float value) {
    const int bits = __float_as_int(value);
    return bits ^ (bits >> 31 & 0x7fffffff);
}

static __device__ float from_ordered(int value) { return __int_as_float(value ^ (value >> 31 & 0x7fffffff)); }

/// What the threads of a block share of one face.
struct FaceShared {
    Affine2 map;
    /// Box, by `ordered`.
    int x0, y0, x1, y1;
    /// Whether a landmark is not finite.
    u32 unsound;
};

/// The region for the next frame; its frame is `NO_FRAME` where there is no face.
static __device__ FaceSlot next_slot(const FaceSlot &slot, const FaceHead &head, float threshold, const float *points) {
    const float width = head.box.x1 - head.box.x0, height = head.box.y1 - head.box.y0;
    const float side = ROI_MARGIN * fmaxf(width, height);
    // Written so that NaN is no face.
    if (!(head.presence >= threshold) || !is_sound(head.box) || !is_finite(side)) {
        return {{0.0f, 0.0f, 0.0f, 0.0f, 0.0f}, NO_FRAME};
    }
    const float *left = points + 3 * LEFT_EYE_CORNER, *right = points + 3 * RIGHT_EYE_CORNER;
    const float rotation = (float)atan2((double)(right[1] - left[1]), (double)(right[0] - left[0]));
    const float cx = (head.box.x0 + head.box.x1) / 2.0f, cy = (head.box.y0 + head.box.y1) / 2.0f;
    return {{cx, cy, side, side, rotation}, slot.frame};
}

/// Everything between the landmark network and the blendshape network, for `count` faces. `crop_landmarks` holds LANDMARKS
/// times x, y, z in pixels of the crop, `presence` one logit for each slot; `points` are the BLENDSHAPE_POINTS indices of
/// landmarks that the blendshape network takes. A slot without a frame gets zeros.
/// Grid: x faces, threads points.
extern "C" __global__ void faces(const float *__restrict__ crop_landmarks, const float *__restrict__ presence,
                                 const FaceSlot *__restrict__ slots, u32 count, float presence_threshold,
                                 const u32 *__restrict__ points, FacesOut out) {
    __shared__ FaceShared shared;
    for (u32 face = block_index(); face < count; face += block_count()) {
        const FaceSlot slot = slots[face];
        const bool active = slot.frame != NO_FRAME;
        const float *from = crop_landmarks + (u64)face * 3 * LANDMARKS;
        float *landmarks = out.landmarks + (u64)face * 3 * LANDMARKS;
        float *gathered = out.blendshape_points + (u64)face * 2 * BLENDSHAPE_POINTS;
        if (threadIdx.x == 0) {
            shared.map = image_from_crop(slot.roi, CROP);
            shared.x0 = shared.y0 = ordered(3.402823466e38f);
            shared.x1 = shared.y1 = ordered(-3.402823466e38f);
            shared.unsound = 0;
        }
        __syncthreads();
        const float depth = slot.roi.width / (float)CROP;
        float x0 = 3.402823466e38f, y0 = x0, x1 = -x0, y1 = -x0;
        bool sound = true;
        for (u32 i = threadIdx.x; i < LANDMARKS; i += blockDim.x) {
            const float(&m)[2][3] = shared.map.m;
            const float u = from[3 * i], v = from[3 * i + 1];
            const float x = active ? m[0][0] * u + m[0][1] * v + m[0][2] : 0.0f;
            const float y = active ? m[1][0] * u + m[1][1] * v + m[1][2] : 0.0f;
            landmarks[3 * i] = x;
            landmarks[3 * i + 1] = y;
            landmarks[3 * i + 2] = active ? from[3 * i + 2] * depth : 0.0f;
            sound = sound && is_finite(x) && is_finite(y);
            // These pass over NaN.
            x0 = fminf(x0, x), y0 = fminf(y0, y), x1 = fmaxf(x1, x), y1 = fmaxf(y1, y);
        }
        atomicMin(&shared.x0, ordered(x0));
        atomicMin(&shared.y0, ordered(y0));
        atomicMax(&shared.x1, ordered(x1));
        atomicMax(&shared.y1, ordered(y1));
        if (!sound) {
            atomicOr(&shared.unsound, 1u);
        }
        // From here on all threads see all of this face's landmarks.
        __syncthreads();
        for (u32 i = threadIdx.x; i < BLENDSHAPE_POINTS; i += blockDim.x) {
            gathered[2 * i] = landmarks[3 * points[i]];
            gathered[2 * i + 1] = landmarks[3 * points[i] + 1];
        }
        if (threadIdx.x == 0) {
            FaceHead head = {};
            if (active) {
                const float left = shared.unsound ? __int_as_float(0x7fc00000) : from_ordered(shared.x0);
                head.presence = sigmoid(presence[face]);
                head.box = {left, from_ordered(shared.y0), from_ordered(shared.x1), from_ordered(shared.y1)};
            }
            out.heads[face] = head;
            out.next[face] = next_slot(slot, head, presence_threshold, landmarks);
            if (face == 0) {
                FacesHeader header = {count, 0, {0, 0}};
                for (u32 i = 0; i < count; ++i) {
                    header.active += slots[i].frame != NO_FRAME;
                }
                *out.header = header;
            }
        }
        // Before the next face's map is written.
        __syncthreads();
    }
}

/// Share of the crop's width and height that sharpness looks at, in the middle.
#define FACE_SHARE (2.0f / 3.0f)

/// Variance of the Laplacian of each crop's green plane, within its middle, in levels of 0 to 255; 0 for a slot without a
/// frame. `crops` are the landmark network's input. Sums are whole numbers of 2^-32, so that their order does not matter.
/// Grid: x faces, threads pixels.
extern "C" __global__ void sharpness(const float *__restrict__ crops, const FaceSlot *__restrict__ slots, u32 count,
                                     float *__restrict__ out) {
    __shared__ u64 sums[2];
    const u32 margin = (u32)((float)CROP * (1.0f - FACE_SHARE) / 2.0f), side = CROP - 2 * margin;
    for (u32 face = block_index(); face < count; face += block_count()) {
        const bool active = slots[face].frame != NO_FRAME;
        const float *plane = crops + ((u64)face * 3 + 1) * CROP * CROP;
        if (threadIdx.x == 0) {
            sums[0] = sums[1] = 0;
        }
        __syncthreads();
        double sum = 0.0, squares = 0.0;
        for (u32 at = threadIdx.x; active && at < side * side; at += blockDim.x) {
            const float *here = plane + (margin + at / side) * CROP + margin + at % side;
            const float laplacian = here[-(int)CROP] + here[CROP] + here[-1] + here[1] - 4.0f * here[0];
            sum += (double)laplacian;
            squares += (double)(laplacian * laplacian);
        }
        // Below 2^52 together: a plane's values are 0 to 1.
        atomicAdd(&sums[0], (u64)(i64)(sum * 4294967296.0));
        atomicAdd(&sums[1], (u64)(i64)(squares * 4294967296.0));
        __syncthreads();
        if (threadIdx.x == 0) {
            const double pixels = (double)(side * side) * 4294967296.0;
            const double mean = (double)(i64)sums[0] / pixels, variance = (double)(i64)sums[1] / pixels - mean * mean;
            out[face] = (float)(fmax(variance, 0.0) * 65025.0);
        }
        // Before the next face's sums are cleared.
        __syncthreads();
    }
}
