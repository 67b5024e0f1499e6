//! One network on one lane: an ONNX Runtime session with its input and output memory.
//!
//! Everything is allocated when it is made. Runs on the calling thread alone and gives the same bytes
//! for the same input on every lane.

use std::cell::Cell;

use ort::memory::Allocator;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionOutputs};
use ort::value::{Tensor, ValueType};

use youquanti_models::ModelId;

use crate::runtime::Runtime;

/// Why a network cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The runtime refuses it or fails in it.
    #[error("network {network}: {action} failed")]
    Runtime {
        /// Which network.
        network: ModelId,
        /// What was attempted.
        action: &'static str,
        /// The runtime's error.
        source: ort::Error,
    },
    /// It is not the network that it should be.
    #[error("network {network} has no {wanted}")]
    Unexpected {
        /// Which network.
        network: ModelId,
        /// What is missing.
        wanted: String,
    },
}

/// A network, ready to run with batch 1.
pub struct Network {
    id: ModelId,
    session: Session,
    input: Tensor<f32>,
    options: RunOptions<HasSelectedOutputs>,
}

impl Network {
    /// Loads a network from its ONNX bytes. `sizes` gives the named dimensions of its one input and of
    /// its outputs their values, e.g. `("N", 1)`; `outputs` are those wanted, in the order in which
    /// [`Outputs::get`] counts them.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub fn load(
        runtime: &Runtime,
        id: ModelId,
        onnx: &[u8],
        sizes: &[(&str, i64)],
        outputs: &[&str],
    ) -> Result<Self, NetworkError> {
        let failed = |action| move |source| NetworkError::Runtime { network: id, action, source };
        let missing = |wanted: &str| NetworkError::Unexpected { network: id, wanted: wanted.to_owned() };
        let session = runtime
            .one_thread(sizes)
            .and_then(|builder| Ok(builder.with_deterministic_compute(true)?))
            .map_err(failed("options"))?
            .commit_from_memory(onnx)
            .map_err(failed("loading"))?;

        let allocator = Allocator::default();
        let tensor = |dtype: &ValueType| -> Result<Option<Tensor<f32>>, NetworkError> {
            let Some(shape) = dtype.tensor_shape() else { return Ok(None) };
            let sizes: Vec<usize> = shape.iter().filter_map(|&side| usize::try_from(side).ok()).collect();
            if sizes.len() < shape.len() {
                return Ok(None);
            }
            Tensor::<f32>::new(&allocator, sizes).map(Some).map_err(failed("allocation"))
        };
        let [input] = session.inputs() else { return Err(missing("single input")) };
        let input = tensor(input.dtype())?.ok_or_else(|| missing("input of fixed size"))?;
        let mut selected = OutputSelector::no_default();
        for &name in outputs {
            let output = session.outputs().iter().find(|output| output.name() == name);
            let output = output.ok_or_else(|| missing(&format!("output {name}")))?;
            let memory = tensor(output.dtype())?;
            let memory = memory.ok_or_else(|| missing(&format!("fixed size for output {name}")))?;
            selected = selected.with(name).preallocate(name, memory);
        }
        let options = RunOptions::new().map_err(failed("options"))?.with_outputs(selected);
        Ok(Self { id, session, input, options })
    }

    /// The input's memory, row-major.
    pub fn input(&mut self) -> &mut [f32] {
        self.input.extract_tensor_mut().1
    }

    /// Runs the network on what is in its input.
    ///
    /// # Errors
    /// [`NetworkError::Runtime`].
    pub fn run(&mut self) -> Result<Outputs<'_>, NetworkError> {
        let _inside = InsideRuntime::enter();
        let outputs = self
            .session
            .run_with_options(ort::inputs![&self.input], &self.options)
            .map_err(|source| NetworkError::Runtime { network: self.id, action: "run", source })?;
        Ok(Outputs { network: self.id, values: outputs })
    }
}

/// What a run gave. Valid until the next run.
pub struct Outputs<'a> {
    network: ModelId,
    values: SessionOutputs<'a>,
}

impl Outputs<'_> {
    /// The output that was the `index`-th wanted one at loading, row-major.
    ///
    /// # Errors
    /// [`NetworkError::Unexpected`] when there are not so many.
    pub fn get(&self, index: usize) -> Result<&[f32], NetworkError> {
        if index >= self.values.len() {
            return Err(NetworkError::Unexpected {
                network: self.network,
                wanted: format!("output {index}"),
            });
        }
        let (_, values) = self.values[index].try_extract_tensor().map_err(|source| {
            NetworkError::Runtime { network: self.network, action: "reading an output", source }
        })?;
        Ok(values)
    }
}

thread_local! {
    static INSIDE_RUNTIME: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a call of the runtime. For tests that count the pipeline's own
/// allocations: what the runtime allocates in a run is its own affair.
pub fn is_inside_runtime() -> bool {
    INSIDE_RUNTIME.get()
}

struct InsideRuntime;

impl InsideRuntime {
    fn enter() -> Self {
        INSIDE_RUNTIME.set(true);
        Self
    }
}

impl Drop for InsideRuntime {
    fn drop(&mut self) {
        INSIDE_RUNTIME.set(false);
    }
}
