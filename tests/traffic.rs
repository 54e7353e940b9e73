//! How often the kernels touch each element: the counts that the shaders' headers state, read from the shaders themselves.

use std::collections::{BTreeMap, HashMap};

use naga::back::pipeline_constants::process_overrides;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{
    BinaryOperator, Block, Expression, Function, Handle, Literal, LocalVariable, Module, ShaderStage, Statement,
    UnaryOperator,
};
use wgloss::internals::{Build, Format, kernels, source, takes_quads};

/// Loads and stores of whole rows, by binding. A loop whose number of rounds is not known is over a row's columns: its body counts once.
type Traffic = BTreeMap<String, usize>;

/// Walks an entry point as it is built for some `override` constants.
struct Walk<'a> {
    module: &'a Module,
    traffic: Traffic,
}

/// What is known of numbers and truths (0, 1) that follow from constants.
#[derive(Default)]
struct Known {
    arguments: Vec<Option<u32>>,
    locals: HashMap<Handle<LocalVariable>, Option<u32>>,
    calls: HashMap<Handle<Expression>, u32>,
}

impl Known {
    fn value(&self, function: &Function, expression: Handle<Expression>) -> Option<u32> {
        let value = |expression| self.value(function, expression);
        match function.expressions[expression] {
            Expression::Literal(Literal::Bool(truth)) => Some(truth.into()),
            Expression::Literal(Literal::U32(number)) => Some(number),
            Expression::Unary { op: UnaryOperator::LogicalNot, expr } => value(expr).map(|truth| 1 - truth),
            Expression::Binary { op, left, right } => {
                let (left, right) = (value(left)?, value(right)?);
                match op {
                    BinaryOperator::Add => Some(left + right),
                    BinaryOperator::Equal => Some((left == right).into()),
                    BinaryOperator::NotEqual => Some((left != right).into()),
                    BinaryOperator::LessEqual => Some((left <= right).into()),
                    BinaryOperator::GreaterEqual => Some((left >= right).into()),
                    _ => None,
                }
            }
            Expression::Select { condition, accept, reject } => {
                if value(condition)? == 1 {
                    value(accept)
                } else {
                    value(reject)
                }
            }
            Expression::FunctionArgument(index) => self.arguments.get(index as usize).copied().flatten(),
            Expression::CallResult(_) => self.calls.get(&expression).copied(),
            Expression::Load { pointer } => match function.expressions[pointer] {
                Expression::LocalVariable(local) => match self.locals.get(&local) {
                    Some(stored) => *stored,
                    None => function.local_variables[local].init.and_then(value),
                },
                _ => None,
            },
            _ => None,
        }
    }
}

/// How a block ends, as far as is known.
#[derive(PartialEq)]
enum End {
    Falls,
    Breaks,
    MayBreak,
    Returns(Option<u32>),
}

impl Walk<'_> {
    fn block(&mut self, function: &Function, block: &Block, known: &mut Known) -> End {
        let mut end = End::Falls;
        for statement in block.iter() {
            match self.statement(function, statement, known) {
                End::Falls => {}
                End::MayBreak => end = End::MayBreak,
                sure => return sure,
            }
        }
        end
    }

    fn statement(&mut self, function: &Function, statement: &Statement, known: &mut Known) -> End {
        match statement {
            Statement::Return { value } => return End::Returns(value.and_then(|value| known.value(function, value))),
            Statement::Break => return End::Breaks,
            Statement::Block(inner) => return self.block(function, inner, known),
            Statement::Loop { body, continuing, .. } => loop {
                match self.block(function, body, known) {
                    End::Falls => self.block(function, continuing, known),
                    End::Breaks | End::MayBreak => break,
                    returns => return returns,
                };
            },
            Statement::If { condition, accept, reject } => match known.value(function, *condition) {
                Some(truth) => return self.block(function, if truth == 1 { accept } else { reject }, known),
                None => {
                    let before = known.locals.clone();
                    let ends = [accept, reject].map(|branch| self.block(function, branch, known));
                    known.locals.retain(|local, value| before.get(local) == Some(value));
                    if ends.iter().any(|end| matches!(end, End::Breaks | End::MayBreak)) {
                        return End::MayBreak;
                    }
                }
            },
            Statement::Store { pointer, value } => {
                if let Expression::LocalVariable(local) = function.expressions[*pointer] {
                    let value = known.value(function, *value);
                    known.locals.insert(local, value);
                }
            }
            Statement::Call { function: callee, result, arguments } => {
                let values = arguments.iter().map(|argument| known.value(function, *argument));
                let value = self.call(*callee, values.collect());
                known.calls.extend(result.zip(value));
            }
            _ => {}
        }
        End::Falls
    }

    fn call(&mut self, callee: Handle<Function>, arguments: Vec<Option<u32>>) -> Option<u32> {
        let callee = &self.module.functions[callee];
        let name = callee.name.as_deref().unwrap_or_default();
        let row = name.strip_suffix("16").or_else(|| name.strip_suffix('4'));
        if let Some(row) = row.filter(|row| row.starts_with("load_") || row.starts_with("store_")) {
            *self.traffic.entry(row.replacen('_', " ", 1)).or_default() += 1;
            return None;
        }
        match self.block(callee, &callee.body, &mut Known { arguments, ..Known::default() }) {
            End::Returns(value) => value,
            _ => None,
        }
    }
}

fn traffic(name: &str, flags: &[(&str, u32)], holds: bool) -> Traffic {
    let (op, entry) = name.split_once('.').unwrap();
    let kernel = kernels().into_iter().find(|kernel| kernel.shader.op == op && kernel.entry == entry);
    let kernel = kernel.unwrap_or_else(|| panic!("no kernel {name}"));
    let formats = (0..kernel.shader.bindings.len())
        .map(|index| Format { quads: takes_quads(kernel.shader, index), ..Format::default() });
    let source = source(kernel.shader, &Build { formats: formats.collect(), ..Build::default() });
    let module = naga::front::wgsl::parse_str(&source).unwrap();
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).unwrap();
    let held = [("HOLDS", u32::from(holds))].into_iter().filter(|_| source.contains("override HOLDS:"));
    let constants = flags.iter().copied().chain(held).map(|(flag, value)| {
        assert!(source.contains(&format!("override {flag}:")), "{name} has no flag {flag}");
        (flag.to_owned(), value.into())
    });
    let stage = Some((ShaderStage::Compute, entry));
    let (module, _) = process_overrides(&module, &info, stage, &constants.collect()).unwrap();
    let function = &module.entry_points.iter().find(|point| point.name == entry).unwrap().function;
    let mut walk = Walk { module: &module, traffic: Traffic::new() };
    walk.block(function, &function.body, &mut Known::default());
    walk.traffic
}

/// `override` constants.
type Flags = &'static [(&'static str, u32)];

const LOSS_AND_GRADIENTS: Flags = &[("HAS_DX", 1), ("HAS_DT", 1), ("HAS_SUMS", 0), ("UNROLLED", 0)];
const LOSS_ALONE: Flags = &[("HAS_DX", 0), ("HAS_DT", 0), ("HAS_SUMS", 0), ("UNROLLED", 0)];
const JENSEN_SHANNON: Flags = &[("DIVERGENCE", 1), ("HAS_DX", 1), ("HAS_DT", 1), ("HAS_SUMS", 1), ("UNROLLED", 0)];

#[test]
fn elements_are_touched_as_often_as_the_headers_say() {
    // Kernel, flags; loads and stores of a row that fits its lanes; of one that does not.
    let cases: &[(&str, Flags, &str, &str)] = &[
        ("softmax.forward", &[], "load x, store y", "load x, load x, store y"),
        ("softmax.forward", &[("LOG_FORM", 1)], "load x, store y", "load x, load x, store y"),
        ("softmax.backward", &[], "load dy, load y_in, store dx", "load dy, load dy, load y_in, load y_in, store dx"),
        ("cross_entropy.forward", &[], "load x", "load x"),
        ("cross_entropy.forward", &[("HAS_DX", 1)], "load x, store dx", "load x, load x, store dx"),
        (
            "cross_entropy.forward",
            &[("HAS_DX", 1), ("SMOOTHS", 1), ("CAPS", 1)],
            "load x, store dx",
            "load x, load x, store dx",
        ),
        (
            "cross_entropy.forward",
            &[("HAS_DX", 1), ("SOFT_TARGET", 1)],
            "load soft, load x, store dx",
            "load soft, load soft, load x, load x, store dx",
        ),
        ("cross_entropy.backward", &[("HAS_DX", 1)], "load x, store dx", "load x, store dx"),
        ("kl.forward", LOSS_ALONE, "load t, load x", "load t, load x"),
        (
            "kl.forward",
            LOSS_AND_GRADIENTS,
            "load t, load x, store dt, store dx",
            "load t, load t, load x, load x, store dt, store dx",
        ),
        (
            "kl.forward",
            JENSEN_SHANNON,
            "load t, load x, store dt, store dx",
            "load t, load t, load t, load x, load x, load x, store dt, store dx",
        ),
        (
            "kl.forward",
            &[("FORM", 3), ("HAS_DX", 1), ("HAS_DT", 1), ("HAS_SUMS", 0), ("UNROLLED", 0)],
            "load t, load x, store dt, store dx",
            "load t, load x, store dt, store dx",
        ),
        ("bce.forward", &[("LOSS", 2), ("GRADIENTS", 1)], "load t, load x, store dx", "load t, load x, store dx"),
        ("l2.forward", &[("LOSS", 2), ("GRADIENTS", 1)], "load t, load x, store dx", "load t, load x, store dx"),
        ("gaussian_kl.forward", &[("LOSS", 2)], "load log_variance, load mean", "load log_variance, load mean"),
        ("normalize.forward", &[], "load x, store y", "load x, load x, store y"),
        ("normalize.backward", &[], "load dy, load x, store dx", "load dy, load dy, load x, load x, store dx"),
        ("sigmoid.forward", &[], "load x, store y", "load x, store y"),
        ("sigmoid.backward", &[], "load dy, load y_in, store dx", "load dy, load y_in, store dx"),
        ("tanh.forward", &[], "load x, store y", "load x, store y"),
        ("tanh.backward", &[], "load dy, load y_in, store dx", "load dy, load y_in, store dx"),
        ("cast.forward", &[], "load x, store y", "load x, store y"),
    ];
    for (name, flags, held, unheld) in cases {
        for (holds, want) in [(true, held), (false, unheld)] {
            let found = traffic(name, flags, holds);
            let found: Vec<_> = found.iter().flat_map(|(row, &count)| vec![row.as_str(); count]).collect();
            assert_eq!(found.join(", "), *want, "{name} {flags:?}, a row held: {holds}");
        }
    }
}
