//! What a stage's graph must look like, and how a graph that does not is told.

use std::collections::BTreeMap;

use ort::value::TensorElementType as Type;

use super::Port;
use crate::model::Model;
use crate::onnx::{self, Outline};
use crate::stage::Stage;
use crate::{Error, Result};

/// Tensor types that hold real numbers and are converted from and to f32.
const REAL: &[Type] = &[Type::Float32, Type::Float16];
/// Tensor types that token ids come in.
const IDS: &[Type] = &[Type::Int64, Type::Int32];
/// Tensor types that timesteps come in.
const TIME: &[Type] = &[Type::Int64, Type::Int32, Type::Float32, Type::Float16, Type::Float64];

/// Numbers that tell a picture's size to a denoiser of SDXL's kind.
pub(crate) const TIME_IDS: usize = 6;

/// What a stage's graph must look like, told before anything runs.
pub(crate) struct Contract<'a> {
    inputs: Vec<Rule<'a>>,
    /// The first is what the stage is for.
    outputs: Vec<Rule<'a>>,
}

/// What a model fixes of a stage's graph; nothing where no model is known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Geometry {
    /// Of a latent.
    pub(crate) channels: Size,
    /// Of a prompt.
    pub(crate) tokens: Size,
    /// Whether words steer it.
    pub(crate) reads_prompts: Option<bool>,
}

impl Geometry {
    pub(crate) fn of(stage: Stage, model: &Model) -> Self {
        Self {
            channels: Some(model.latent.channels),
            tokens: model.tokenizers.get(&stage).map(|tokenizer| tokenizer.window.length),
            reads_prompts: Some(model.reads_prompts()),
        }
    }
}

/// What one tensor of a graph must look like.
struct Rule<'a> {
    /// What the graph calls it.
    name: &'a str,
    types: &'static [Type],
    shapes: Vec<Vec<Size>>,
    /// What the session is opened for, until another size is asked for.
    usual: Vec<Size>,
    optional: bool,
    /// What else the graph may call it.
    other_name: Option<&'a str>,
}

/// A size that an axis must have, or `None` where every size will do.
pub(crate) type Size = Option<usize>;

impl<'a> Rule<'a> {
    /// A tensor that must be there, of one of `types`, in a shape that fits.
    fn new(name: &'a str, types: &'static [Type], shape: &[Size]) -> Self {
        Self { name, types, shapes: vec![shape.to_vec()], usual: Vec::new(), optional: false, other_name: None }
    }

    /// The same tensor in another shape is as good.
    fn or_shape(mut self, shape: &[Size]) -> Self {
        self.shapes.push(shape.to_vec());
        self
    }

    /// A tensor of another name is as good.
    fn or_named(mut self, name: &'a str) -> Self {
        self.other_name = Some(name);
        self
    }

    /// The graph may do without it.
    fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl<'a> Contract<'a> {
    /// What a stage's graph looks like. `name` tells what it calls a tensor of Optimum's name.
    pub(crate) fn of(stage: Stage, name: &dyn Fn(&'static str) -> &'a str, geometry: Geometry) -> Self {
        let Geometry { channels, tokens, reads_prompts } = geometry;
        let (latent, picture) = ([None, channels, None, None], [None, Some(3), None, None]);
        let inputs = match stage {
            Stage::TextEncoder | Stage::TextEncoder2 => vec![Rule::new(name("input_ids"), IDS, &[None, tokens])],
            Stage::Denoiser => {
                let mut inputs = vec![
                    // A latent, or one with a mask and the latent of what is around it.
                    Rule::new(name("sample"), REAL, &latent).or_shape(&[None, channels.map(|c| 2 * c + 1), None, None]),
                    Rule::new(name("timestep"), TIME, &[]).or_shape(&[None]),
                    Rule::new(name("timestep_cond"), REAL, &[None; 2]).optional(),
                ];
                let hidden = Rule::new(name("encoder_hidden_states"), REAL, &[None; 3]);
                if reads_prompts != Some(false) {
                    inputs.push(if reads_prompts.is_none() { hidden.optional() } else { hidden });
                    inputs.push(Rule::new(name("text_embeds"), REAL, &[None; 2]).optional());
                    inputs.push(Rule::new(name("time_ids"), REAL, &[None, Some(TIME_IDS)]).optional());
                }
                inputs
            }
            Stage::Decoder => vec![Rule::new(name("latent_sample"), REAL, &latent)],
            Stage::Encoder => vec![Rule::new(name("sample"), REAL, &picture)],
        };
        let outputs = match stage {
            Stage::TextEncoder | Stage::TextEncoder2 => vec![
                Rule::new(name("last_hidden_state"), REAL, &[None; 3]),
                Rule::new(name("text_embeds"), REAL, &[None; 2]).optional(),
            ],
            Stage::Denoiser => vec![Rule::new(name("out_sample"), REAL, &latent)],
            Stage::Decoder => vec![Rule::new(name("sample"), REAL, &picture)],
            // Mean and logarithm of the variance, or one latent.
            Stage::Encoder => {
                let parameters = [None, channels.map(|c| 2 * c), None, None];
                let rule = Rule::new(name("latent_parameters"), REAL, &parameters).or_shape(&latent);
                vec![rule.or_named(name("latent_sample"))]
            }
        };
        Self { inputs, outputs }
    }

    /// What a stage's graph looks like in a model.
    pub(crate) fn of_model(stage: Stage, model: &'a Model) -> Self {
        let name = |name: &'static str| model.tensor(stage, name);
        let mut contract = Self::of(stage, &name, Geometry::of(stage, model));
        if stage == Stage::Denoiser {
            let number = |tensor: &'a String| Rule::new(tensor, TIME, &[]).or_shape(&[None]).or_shape(&[None, Some(1)]);
            contract.inputs.extend(model.conditions.values().map(|condition| number(&condition.tensor)));
        }
        contract
    }

    /// The sizes that an input will have for most requests.
    pub(crate) fn usually(mut self, name: &str, shape: &[Size]) -> Self {
        self.inputs.iter_mut().filter(|rule| rule.name == name).for_each(|rule| rule.usual = shape.to_vec());
        self
    }

    /// Checks a graph that is not open.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) telling what differs.
    pub(crate) fn check_file(&self, outline: &Outline) -> Result<()> {
        let ports = |tensors: &[onnx::Tensor]| tensors.iter().map(declared).collect::<Result<Vec<_>>>();
        self.check(&ports(&outline.inputs)?, &ports(&outline.outputs)?).map(drop)
    }

    /// Named axes of the inputs that have one usual size, with that size.
    pub(super) fn fixed_axes(&self, outline: &Outline) -> Vec<(String, usize)> {
        let mut fixed: BTreeMap<&str, Option<usize>> = BTreeMap::new();
        for rule in &self.inputs {
            let Some(input) = outline.inputs.iter().find(|input| input.name == rule.name) else { continue };
            for (axis, usual) in input.sizes.iter().zip(&rule.usual) {
                let (Some(name), Some(size)) = (axis.name(), *usual) else { continue };
                // An axis that two inputs would fix differently stays free.
                fixed
                    .entry(name)
                    .and_modify(|other| *other = other.filter(|&other| other == size))
                    .or_insert(Some(size));
            }
        }
        fixed.into_iter().filter_map(|(name, size)| Some((name.to_owned(), size?))).collect()
    }

    /// Checks names, types, ranks and fixed sizes; returns where each output of the contract is, if it is there.
    pub(super) fn check(&self, inputs: &[Port], outputs: &[Port]) -> Result<Vec<Option<usize>>> {
        for rule in &self.inputs {
            match inputs.iter().find(|port| port.name == rule.name) {
                Some(port) => rule.check("input", port)?,
                None if rule.optional => (),
                None => return Err(missing("input", rule.name, inputs)),
            }
        }
        if let Some(port) = inputs.iter().find(|port| self.inputs.iter().all(|rule| rule.name != port.name)) {
            let known: Vec<_> = self.inputs.iter().map(|rule| rule.name).collect();
            return Err(Error::model(format!(
                "it wants an input \"{}\", but safelight gives it only: {}",
                port.name,
                known.join(", ")
            )));
        }
        let named = |name: &str| outputs.iter().position(|port| port.name == name);
        let find = |rule: &Rule| match named(rule.name).or_else(|| named(rule.other_name?)) {
            Some(index) => rule.check("output", &outputs[index]).map(|()| Some(index)),
            None if rule.optional => Ok(None),
            None => Err(missing("output", rule.name, outputs)),
        };
        self.outputs.iter().map(find).collect()
    }
}

impl Rule<'_> {
    fn check(&self, kind: &str, port: &Port) -> Result<()> {
        let fault = |what: &str, found: String, expected: String| {
            Err(Error::model(format!("{kind} \"{}\" has {what} {found}, expected {expected}", port.name)))
        };
        if !self.types.contains(&port.data_type) {
            let types: Vec<_> = self.types.iter().map(ToString::to_string).collect();
            return fault("type", port.data_type.to_string(), types.join(" or "));
        }
        let size_fits =
            |(&declared, wanted): (&i64, &Size)| declared < 0 || wanted.is_none_or(|wanted| declared == wanted as i64);
        let fits =
            |shape: &Vec<Size>| shape.len() == port.declared.len() && port.declared.iter().zip(shape).all(size_fits);
        if !self.shapes.iter().any(fits) {
            let expected: Vec<_> = self.shapes.iter().map(|shape| describe(shape)).collect();
            return fault(
                "shape",
                format!("{:?}", port.declared),
                format!("{} (-1 is any size)", expected.join(" or ")),
            );
        }
        Ok(())
    }
}

/// A tensor as its file declares it.
fn declared(tensor: &onnx::Tensor) -> Result<Port> {
    let data_type = match tensor.element_type {
        onnx::FLOAT => Type::Float32,
        2 => Type::Uint8,
        3 => Type::Int8,
        4 => Type::Uint16,
        5 => Type::Int16,
        6 => Type::Int32,
        7 => Type::Int64,
        9 => Type::Bool,
        onnx::FLOAT16 => Type::Float16,
        11 => Type::Float64,
        12 => Type::Uint32,
        13 => Type::Uint64,
        onnx::BFLOAT16 => Type::Bfloat16,
        other => return Err(Error::model(format!("{} is a tensor of {}", tensor.name, onnx::element_name(other)))),
    };
    Ok(Port {
        name: tensor.name.clone(),
        data_type,
        declared: tensor.sizes.iter().map(onnx::Size::declared).collect(),
        axes: Vec::new(),
        shape: None,
    })
}

fn describe(shape: &[Size]) -> String {
    let sizes: Vec<_> = shape.iter().map(|size| size.map_or_else(|| "-1".into(), |size| size.to_string())).collect();
    format!("[{}]", sizes.join(", "))
}

fn missing(kind: &str, name: &str, ports: &[Port]) -> Error {
    let has: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
    Error::model(format!("it has no {kind} \"{name}\"; it has: {}", has.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::onnx::{self, Tensor};

    fn contract() -> Contract<'static> {
        let latent = [None, Some(4), None, None];
        Contract {
            inputs: vec![
                Rule::new("sample", REAL, &latent),
                Rule::new("timestep", TIME, &[]).or_shape(&[None]),
                Rule::new("timestep_cond", REAL, &[None; 2]).optional(),
            ],
            outputs: vec![Rule::new("out_sample", REAL, &latent), Rule::new("extra", REAL, &[None]).optional()],
        }
    }

    fn port(name: &str, data_type: Type, declared: &[i64]) -> Port {
        Port { name: name.into(), data_type, declared: declared.to_vec(), axes: Vec::new(), shape: None }
    }

    /// Ports that fit [`contract`].
    fn fitting() -> (Vec<Port>, Vec<Port>) {
        let sample = port("sample", Type::Float16, &[-1, 4, 8, 8]);
        let output = port("out_sample", Type::Float32, &[-1, -1, -1, -1]);
        (vec![sample, port("timestep", Type::Int64, &[1])], vec![port("more", Type::Bool, &[]), output])
    }

    #[test]
    fn a_graph_that_fits_has_its_output_found() {
        let (mut inputs, outputs) = fitting();
        assert_eq!(contract().check(&inputs, &outputs).unwrap(), [Some(1), None]);
        inputs[1].declared.clear();
        inputs.push(port("timestep_cond", Type::Float32, &[-1, 256]));
        assert_eq!(contract().check(&inputs, &outputs).unwrap(), [Some(1), None]);
    }

    #[test]
    fn an_input_that_does_not_fit_is_told() {
        type Edit = fn(&mut Vec<Port>);
        let table: [(Edit, &str); 6] = [
            (|inputs| inputs[0].name = "latents".into(), r#"it has no input "sample"; it has: latents, timestep"#),
            (
                |inputs| inputs.push(port("ids", Type::Int64, &[-1, 6])),
                r#"it wants an input "ids", but safelight gives it only: sample, timestep, timestep_cond"#,
            ),
            (|inputs| inputs[0].data_type = Type::Uint8, r#"input "sample" has type u8, expected f32 or f16"#),
            (
                |inputs| inputs[0].declared = vec![-1, 4, -1],
                r#"input "sample" has shape [-1, 4, -1], expected [-1, 4, -1, -1] (-1 is any size)"#,
            ),
            (
                |inputs| inputs[0].declared[1] = 16,
                r#"input "sample" has shape [-1, 16, 8, 8], expected [-1, 4, -1, -1] (-1 is any size)"#,
            ),
            (
                |inputs| inputs[1].declared = vec![1, 1],
                r#"input "timestep" has shape [1, 1], expected [] or [-1] (-1 is any size)"#,
            ),
        ];
        for (edit, message) in table {
            let (mut inputs, outputs) = fitting();
            edit(&mut inputs);
            let error = contract().check(&inputs, &outputs).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Model, message));
        }
    }

    #[test]
    fn an_optional_input_must_fit_where_it_is() {
        let (mut inputs, outputs) = fitting();
        inputs.push(port("timestep_cond", Type::Int64, &[-1, 256]));
        let error = contract().check(&inputs, &outputs).unwrap_err();
        assert!(error.to_string().contains(r#"input "timestep_cond" has type i64"#), "{error}");
    }

    #[test]
    fn an_output_that_does_not_fit_is_told() {
        let (inputs, mut outputs) = fitting();
        outputs[1].declared[1] = 8;
        let error = contract().check(&inputs, &outputs).unwrap_err();
        assert!(error.to_string().contains(r#"output "out_sample" has shape [-1, 8, -1, -1]"#), "{error}");
        outputs.pop();
        let error = contract().check(&inputs, &outputs).unwrap_err();
        assert_eq!(error.to_string(), r#"it has no output "out_sample"; it has: more"#);
    }

    /// The axes that are fixed where inputs `a`, `b`, … have one axis called "rows" and these usual sizes.
    fn fixed_rows(usual: &[Size]) -> Vec<(String, usize)> {
        let names = || ["a", "b", "c"].into_iter().zip(usual);
        let tensor = |name: &str| {
            let sizes = vec![onnx::Size::Named("rows".into()), onnx::Size::Unknown, onnx::Size::Fixed(4)];
            Tensor { name: name.into(), sizes, ..Tensor::default() }
        };
        let outline = Outline { inputs: names().map(|(name, _)| tensor(name)).collect(), ..Outline::default() };
        let rule = |name| Rule::new(name, REAL, &[None; 3]);
        let contract = Contract { inputs: names().map(|(name, _)| rule(name)).collect(), outputs: vec![rule("out")] };
        let usually = |contract: Contract<'static>, (name, &rows)| contract.usually(name, &[rows, Some(8), Some(8)]);
        names().fold(contract, usually).fixed_axes(&outline)
    }

    #[test]
    fn a_named_axis_is_fixed_to_its_usual_size() {
        assert_eq!(fixed_rows(&[Some(2)]), [("rows".into(), 2)]);
        assert_eq!(fixed_rows(&[Some(2), None, Some(2)]), [("rows".into(), 2)]);
        assert_eq!(fixed_rows(&[None]), []);
    }

    #[test]
    fn an_axis_that_two_inputs_would_fix_differently_stays_free() {
        assert_eq!(fixed_rows(&[Some(2), Some(1)]), []);
        assert_eq!(fixed_rows(&[Some(2), Some(1), Some(2)]), []);
    }
}
