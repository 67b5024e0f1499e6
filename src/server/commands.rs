//! Commands that arrive over the network, each carried out once, however often it is sent.
//!
//! Owns what was answered to the newest commands that had an id of the client's choice. A command that has begun is carried
//! out even if its client goes away meanwhile. Knows nothing of what commands do.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use actix_web::http::StatusCode;
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tracing::info;
use youquanti_actors::control::{Command, Control};

use super::views::command_error;

/// Answers that are remembered.
const REMEMBERED: usize = 1024;

/// Longest id of a command.
const LONGEST_ID: usize = 128;

/// What became of a command: status and body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Json,
}

impl Answer {
    fn refusal(status: StatusCode, code: &str, words: &str) -> Self {
        Self { status, body: json!({ "error": { "code": code, "message": words } }) }
    }
}

/// A command as a client sends it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    /// The client's name for it: sent again, it is not carried out again.
    pub(crate) id: Option<String>,
    pub(crate) command: Command,
}

impl Request {
    /// Reads `{"id": "…", "command": "mark", …}`; the id may be left out.
    pub(crate) fn read(mut object: Json) -> Result<Self, Answer> {
        let invalid = |words: &str| Answer::refusal(StatusCode::UNPROCESSABLE_ENTITY, "invalid", words);
        let Json::Object(fields) = &mut object else { return Err(invalid("a command is a JSON object")) };
        let id = match fields.remove("id") {
            None | Some(Json::Null) => None,
            Some(Json::String(id)) if (1..=LONGEST_ID).contains(&id.chars().count()) => Some(id),
            Some(_) => return Err(invalid("id is no text of 1 to 128 characters")),
        };
        let command = serde_json::from_value(object).map_err(|error| invalid(&error.to_string()))?;
        Ok(Self { id, command })
    }
}

#[derive(Debug)]
struct Known {
    command: Command,
    answer: watch::Receiver<Option<Answer>>,
}

#[derive(Debug, Default)]
struct Memory {
    known: HashMap<String, Known>,
    /// Ids, the oldest first.
    order: VecDeque<String>,
}

/// The newest commands.
#[derive(Debug, Default)]
pub(crate) struct Commands(Mutex<Memory>);

impl Commands {
    /// Has a command carried out, unless it was before; answered when it is.
    pub(crate) async fn carry_out(&self, session: &Control, request: Request) -> Answer {
        let answer = match self.enter(session, request) {
            Ok(answer) => answer,
            Err(refusal) => return refusal,
        };
        wait(answer).await
    }

    fn enter(&self, session: &Control, request: Request) -> Result<watch::Receiver<Option<Answer>>, Answer> {
        let Some(id) = request.id else { return Ok(begin(session, request.command)) };
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = memory.known.get(&id) {
            if known.command == request.command {
                return Ok(known.answer.clone());
            }
            let words = format!("id {id:?} was used for another command: {}", known.command.name());
            return Err(Answer::refusal(StatusCode::CONFLICT, "id_used", &words));
        }
        if memory.order.len() >= REMEMBERED
            && let Some(oldest) = memory.order.pop_front()
        {
            memory.known.remove(&oldest);
        }
        let answer = begin(session, request.command.clone());
        memory.known.insert(id.clone(), Known { command: request.command, answer: answer.clone() });
        memory.order.push_back(id);
        Ok(answer)
    }
}

/// Begins to carry a command out, on its own task: nobody has to stay for it.
fn begin(session: &Control, command: Command) -> watch::Receiver<Option<Answer>> {
    let (tell, answer) = watch::channel(None);
    let session = session.clone();
    actix_rt::spawn(async move {
        let name = command.name();
        let answer = match session.execute(command).await {
            Ok(done) => Answer { status: StatusCode::OK, body: json!({ "ok": done }) },
            Err(error) => {
                info!(command = name, %error, "a command was refused");
                let (status, body) = command_error(&error);
                Answer { status, body }
            }
        };
        tell.send_replace(Some(answer));
    });
    answer
}

async fn wait(mut answer: watch::Receiver<Option<Answer>>) -> Answer {
    let answered = answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
    answered.unwrap_or_else(|| {
        Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, "ended", "the session ended before it answered")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_have_an_id() {
        let read = |text: &str| Request::read(serde_json::from_str(text).unwrap());
        let mark = Command::Mark { text: "a".to_owned(), lsl_time: None };
        let id = Some("x1".to_owned());
        assert_eq!(
            read(r#"{"id":"x1","command":"mark","text":"a"}"#),
            Ok(Request { id, command: mark.clone() })
        );
        assert_eq!(read(r#"{"command":"mark","text":"a"}"#), Ok(Request { id: None, command: mark }));
        for wrong in
            ["[]", "3", r#"{"id":"","command":"mark","text":"a"}"#, r#"{"id":7,"command":"stop"}"#, "{}"]
        {
            assert_eq!(read(wrong).unwrap_err().status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
        }
    }
}
