//! The faces that are followed, camera by camera, the same for every back end: which regions are to be looked at, and what of
//! what was seen there is published. Never touches pixels, networks or devices.

use std::sync::Arc;

use youquanti_models::{
    BLENDSHAPE_COUNT, CameraId, Face, LANDMARK_COUNT, LandmarkResult, Roi, TrackIds, TrackedFace, Tracker,
    TrackerOptions,
};

/// What was seen in a region.
pub(crate) struct Seen<'a> {
    /// 0 to 1.
    pub(crate) presence: f32,
    /// See [`Face::sharpness`].
    pub(crate) sharpness: Option<f32>,
    /// Picture pixels.
    pub(crate) landmarks: &'a [[f32; 3]; LANDMARK_COUNT],
    /// Meaningless unless `presence` reaches the tracker's threshold.
    pub(crate) blendshapes: &'a [f32; BLENDSHAPE_COUNT],
    /// Meaningless unless `presence` reaches the tracker's threshold.
    pub(crate) head_pose: &'a [[f32; 4]; 4],
}

/// The trackers of all cameras of a pipeline.
pub(crate) struct Followed {
    options: TrackerOptions,
    ids: Arc<TrackIds>,
    cameras: Vec<Camera>,
    /// Scratch: which of the things seen belongs to each track, and what the tracker makes of them.
    of_tracks: Vec<usize>,
    tracked: Vec<Option<TrackedFace>>,
}

struct Camera {
    id: CameraId,
    /// Width and height of its last picture.
    picture: [u32; 2],
    tracker: Tracker,
}

impl Followed {
    /// Without cameras.
    pub(crate) fn new(options: TrackerOptions, ids: Arc<TrackIds>) -> Self {
        let room = options.max_faces.max(1);
        Self {
            options,
            ids,
            cameras: Vec::new(),
            of_tracks: Vec::with_capacity(room),
            tracked: Vec::with_capacity(room),
        }
    }

    /// The index of a camera, known or not, whose picture has this width and height from now on. In another size than before
    /// nobody is where they were.
    pub(crate) fn camera(&mut self, id: CameraId, picture: [u32; 2]) -> usize {
        let known = self.cameras.iter().position(|camera| camera.id == id);
        let at = known.unwrap_or_else(|| {
            let tracker = Tracker::new(id, Arc::clone(&self.ids), self.options);
            self.cameras.push(Camera { id, picture, tracker });
            self.cameras.len() - 1
        });
        let camera = &mut self.cameras[at];
        if camera.picture != picture {
            camera.picture = picture;
            camera.tracker.forget();
        }
        at
    }

    /// The tracker of the camera with this index.
    pub(crate) fn tracker(&mut self, camera: usize) -> &mut Tracker {
        &mut self.cameras[camera].tracker
    }

    /// Ends all tracks of a camera.
    pub(crate) fn forget(&mut self, id: CameraId) {
        if let Some(camera) = self.cameras.iter_mut().find(|known| known.id == id) {
            camera.tracker.forget();
        }
    }

    /// Lets the tracker judge what was seen in its regions, and writes what are faces, in the order of their tracks. `find`
    /// gives the index of what was seen in a region, and `seen` the thing itself; every region was looked at.
    pub(crate) fn publish<'a>(
        &mut self,
        camera: usize,
        find: impl Fn(&Roi) -> Option<usize>,
        seen: impl Fn(usize) -> Seen<'a>,
        faces: &mut Vec<Face>,
    ) {
        let Self { cameras, of_tracks, tracked, .. } = self;
        let tracker = &mut cameras[camera].tracker;
        of_tracks.clear();
        of_tracks.extend(tracker.tracks().iter().filter_map(|track| find(track.roi())));
        let results = of_tracks.iter().map(|&at| {
            let Seen { presence, landmarks, .. } = seen(at);
            LandmarkResult { presence, landmarks }
        });
        tracker.update(results, tracked);
        faces.clear();
        for (&tracked, &at) in tracked.iter().zip(&*of_tracks) {
            let Some(TrackedFace { track, score, bbox }) = tracked else { continue };
            let Seen { presence, sharpness, landmarks, blendshapes, head_pose } = seen(at);
            faces.push(Face {
                track,
                score,
                bbox: [bbox.x0, bbox.y0, bbox.x1, bbox.y1],
                presence,
                sharpness,
                landmarks: *landmarks,
                blendshapes: *blendshapes,
                head_pose: *head_pose,
            });
        }
        faces.sort_unstable_by_key(|face| face.track);
    }
}
