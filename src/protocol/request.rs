//! [`Request`]: what all requests that are answered by one whole frame have in common.

use super::admin::{
    CreateTopicCode, CreateTopicRequest, CreateTopicResponse, DiscoverPartitionsRequest, DiscoverPartitionsResponse,
    DiscoverTopicsRequest, DiscoverTopicsResponse, DiscoverTopologyRequest, DiscoverTopologyResponse, PartitionState,
    ReloadConfCode, ReloadConfRequest, ReloadConfResponse, StatusRequest, StatusResponse,
};
use super::fetch::{FetchRequest, PartitionAnswer};
use super::frame::Payload;
use super::{DecodeError, DecodeFault, Limits, stream};

/// A request that is answered by one frame, which can be held whole.
pub trait Request: Payload + Clone {
    /// What the answer says. The message id of its frame is that of the request.
    type Answer;

    /// Sets the id that the answer repeats.
    fn set_request_id(&mut self, id: u32);

    /// Reads the answer from its frame's payload.
    ///
    /// # Errors
    /// Malformed data, more than `limits` allow, or the answer to another request: another id, topic or partition. If partitions
    /// were listed, also a number of them that is neither that of the list nor 0.
    fn read_answer(&self, payload: &[u8], limits: &Limits) -> Result<Self::Answer, DecodeError>;
}

macro_rules! request {
    ($request:ty, $response:ty => $answer:ty, |$asked:ident, $says:ident| $read:expr) => {
        impl Request for $request {
            type Answer = $answer;

            fn set_request_id(&mut self, id: u32) {
                self.request_id = id;
            }

            fn read_answer(&self, payload: &[u8], limits: &Limits) -> Result<$answer, DecodeError> {
                let ($asked, $says) = (self, <$response>::decode_within(payload, limits)?);
                DecodeError::check_is("request id", $says.request_id, self.request_id, 0)?;
                $read
            }
        }
    };
}

request!(StatusRequest, StatusResponse => StatusResponse, |_asked, says| Ok(says));
request!(DiscoverTopicsRequest, DiscoverTopicsResponse => DiscoverTopicsResponse, |_asked, says| Ok(says));
request!(DiscoverTopologyRequest, DiscoverTopologyResponse => DiscoverTopologyResponse, |_asked, says| Ok(says));
request!(ReloadConfRequest, ReloadConfResponse => ReloadConfCode, |asked, says| {
    let at = expect_topic(&says.topic, &asked.topic)?;
    DecodeError::check_is("partition id", says.partition, asked.partition, at).map(|()| says.code)
});
request!(CreateTopicRequest, CreateTopicResponse => CreateTopicCode, |asked, says| {
    expect_topic(&says.topic, &asked.topic).map(|_| says.code)
});
// `None`: there is no such topic.
request!(DiscoverPartitionsRequest, DiscoverPartitionsResponse => Option<Vec<PartitionState>>, |asked, says| {
    let (at, listed) = (expect_topic(&says.topic, &asked.topic)?, asked.partitions.len() as u64);
    if listed > 0 && says.count > 0 {
        DecodeError::check_is("partition count", says.count, listed, at)?;
    }
    Ok((says.count > 0).then_some(says.partitions))
});

/// Returns the position after the topic name, which follows the request id in every answer that has one.
fn expect_topic(found: &str, expected: &str) -> Result<u64, DecodeError> {
    if found == expected {
        Ok(5 + found.len() as u64)
    } else {
        Err(DecodeError::new("topic name", DecodeFault::Name, 4))
    }
}

// What the broker says of each partition, in the order of `slots`: for questions that no data answers.
impl Request for FetchRequest {
    type Answer = Vec<PartitionAnswer>;

    fn set_request_id(&mut self, id: u32) {
        self.request_id = id;
    }

    fn read_answer(&self, payload: &[u8], limits: &Limits) -> Result<Vec<PartitionAnswer>, DecodeError> {
        stream::answers(self, payload, limits)
    }
}
