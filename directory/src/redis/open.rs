//! A connection to the server that takes writes, however it is found.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind,
    TlsCertificates, Value,
};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::config::{Target, Topology};
use super::host::Host;
use super::parse::Answer;
use super::script::{SCRIPT, Step};
use super::trouble::{Trouble, trouble};

/// How long one server may take until it is ready to be asked, TLS included.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long one sentinel may take to name the master.
const SENTINEL_MAX: Duration = Duration::from_millis(800);
/// How often they are asked whether that still is so.
const SENTINEL_EVERY: Duration = Duration::from_secs(1);
/// Redirections that are followed in a row: a slot that moves on and on is a broken cluster.
const REDIRECTIONS_MAX: usize = 5;
/// How long replicas may take to confirm: it has to fit into [`super::connection::CALL_MAX`].
const WAIT_MAX: Duration = Duration::from_millis(400);
/// An idle connection is probed, so that one whose other end vanished is noticed.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Connections to one server.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    pub(super) host: Host,
    pub(super) generation: u64,
    /// Hints come here too.
    reads: MultiplexedConnection,
    /// Apart from `reads` if replicas have to confirm: until they do, Redis answers nothing else
    /// there.
    changes: MultiplexedConnection,
    wait_replicas: u32,
}

/// What every call of the script has in common.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) prefix: &'a str,
    /// µs; empty for the server's time.
    pub(super) time: String,
    pub(super) step: &'a Step,
}

impl Call<'_> {
    fn command(&self, name: &str, script: &str) -> redis::Cmd {
        let mut command = redis::cmd(name);
        // The incarnation, if the directory turns out to be a new one.
        let fresh = format!("{:016x}", rand::random::<u64>());
        command
            .arg(script)
            .arg(1)
            .arg(format!("{}meta", self.prefix))
            .arg(self.prefix)
            .arg(&self.time)
            .arg(fresh)
            .arg(self.step.name)
            .arg(&self.step.arguments);
        command
    }
}

impl Lines {
    /// Takes one step; with replicas to wait for, it counts once they have it.
    pub(super) async fn take(&self, call: &Call<'_>) -> Result<Answer, Trouble> {
        let reply = match self
            .send(&call.command("EVALSHA", &SCRIPT.hash), call)
            .await
        {
            Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.send(&call.command("EVAL", &SCRIPT.text), call).await
            }
            other => other,
        };
        let (value, confirmed) = reply.map_err(|e| self.trouble(&e))?;
        if let Some(count) = confirmed.filter(|&count| count < i64::from(self.wait_replicas)) {
            return Err(Trouble {
                cause: format!(
                    "{count} of {} replicas of Redis confirmed the change within {WAIT_MAX:?}; it \
                     may have happened",
                    self.wait_replicas
                ),
                lost: false,
                redirect: None,
            });
        }
        Answer::new(value).map_err(|why| Trouble {
            cause: format!("Redis answered what the script does not say: {why}"),
            lost: false,
            redirect: None,
        })
    }

    /// The script's reply, and how many replicas confirmed.
    async fn send(
        &self,
        command: &redis::Cmd,
        call: &Call<'_>,
    ) -> RedisResult<(Value, Option<i64>)> {
        if !call.step.changes || self.wait_replicas == 0 {
            return Ok((command.query_async(&mut self.reads.clone()).await?, None));
        }
        // In one piece on one connection: elsewhere WAIT would ask about other writes.
        let mut pipeline = redis::pipe();
        pipeline.add_command(command.clone());
        pipeline
            .cmd("WAIT")
            .arg(self.wait_replicas)
            .arg(WAIT_MAX.as_millis() as u64);
        let replies: Vec<RedisResult<Value>> = pipeline
            .ignore_errors()
            .query_async(&mut self.changes.clone())
            .await?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
        let (reply, confirmed) = (next()?, next()?);
        Ok((reply, Some(redis::from_redis_value(confirmed)?)))
    }

    fn trouble(&self, error: &RedisError) -> Trouble {
        trouble(&self.host, error)
    }
}

impl Target {
    /// Connects to the server that takes writes, listening to what it tells; `hello` is the first
    /// thing that it is asked.
    pub(super) async fn open(
        &self,
        generation: u64,
        redirect: Option<Host>,
        listener: &AsyncConnectionConfig,
        hello: &Call<'_>,
    ) -> Result<(Lines, Answer), String> {
        let mut candidates: Vec<Host> = redirect.into_iter().collect();
        match &self.topology {
            Topology::Sentinel { service } => candidates.push(self.master(service).await?),
            Topology::Standalone { .. } | Topology::Cluster => {
                candidates.extend(self.hosts.clone())
            }
        }
        let mut causes = Vec::new();
        for host in candidates {
            match self.follow(host, generation, listener, hello).await {
                Ok(opened) => return Ok(opened),
                Err(cause) => causes.push(cause),
            }
        }
        causes.dedup();
        Err(causes.join("; "))
    }

    /// Connects to `host`, or where a cluster points from there.
    async fn follow(
        &self,
        mut host: Host,
        generation: u64,
        listener: &AsyncConnectionConfig,
        hello: &Call<'_>,
    ) -> Result<(Lines, Answer), String> {
        for _ in 0..=REDIRECTIONS_MAX {
            self.permit(&host)?;
            let opening = self.open_at(&host, generation, listener, hello);
            match timeout(CONNECT_MAX, opening).await {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(Trouble {
                    redirect: Some(next),
                    ..
                })) if self.topology == Topology::Cluster => {
                    host = next;
                }
                Ok(Err(trouble)) => return Err(trouble.cause),
                Err(_) => {
                    return Err(format!(
                        "Redis at {host} was not ready within {CONNECT_MAX:?}"
                    ));
                }
            }
        }
        Err(format!("the cluster redirects on and on, to {host} last"))
    }

    async fn open_at(
        &self,
        host: &Host,
        generation: u64,
        listener: &AsyncConnectionConfig,
        hello: &Call<'_>,
    ) -> Result<(Lines, Answer), Trouble> {
        let failed = |e: RedisError| trouble(host, &e);
        let client = self.client(host, true).map_err(failed)?;
        let connect = || client.get_multiplexed_async_connection_with_config(listener);
        let mut reads = connect().await.map_err(failed)?;
        // Before anything is asked: what changes from the first answer on is told.
        reads
            .subscribe(format!("{}hints", self.prefix))
            .await
            .map_err(failed)?;
        let changes = match self.wait_replicas {
            0 => reads.clone(),
            _ => connect().await.map_err(failed)?,
        };
        let lines = Lines {
            host: host.clone(),
            generation,
            reads,
            changes,
            wait_replicas: self.wait_replicas,
        };
        let answer = lines.take(hello).await?;
        Ok((lines, answer))
    }

    /// Ends when the sentinels name another master than `present`: a master that was replaced takes
    /// changes for seconds more, and they are lost. Never ends where nobody names one.
    pub(super) async fn replaced(&self, present: &Host) -> String {
        let Topology::Sentinel { service } = &self.topology else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(SENTINEL_EVERY).await;
            // Sentinels that cannot be asked say nothing about the master.
            if let Ok(named) = self.master(service).await
                && named != *present
            {
                return format!("the sentinels name {named} as the master, no longer {present}");
            }
        }
    }

    /// Who the sentinels say takes writes.
    async fn master(&self, service: &str) -> Result<Host, String> {
        let mut causes = Vec::new();
        for sentinel in &self.hosts {
            match timeout(SENTINEL_MAX, self.ask_sentinel(sentinel, service)).await {
                Ok(Ok(master)) => return Ok(master),
                Ok(Err(cause)) => causes.push(cause),
                Err(_) => causes.push(format!("the sentinel {sentinel} did not answer")),
            }
        }
        Err(causes.join("; "))
    }

    async fn ask_sentinel(&self, sentinel: &Host, service: &str) -> Result<Host, String> {
        let failed =
            |e: RedisError| format!("the sentinel {sentinel}: {}", trouble(sentinel, &e).cause);
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        // Most sentinels have no password; those that have one share it with the servers.
        let mut named = self.ask_name(sentinel, service, false, &config).await;
        if named.as_ref().is_err_and(|e| e.code() == Some("NOAUTH")) {
            named = self.ask_name(sentinel, service, true, &config).await;
        }
        let (name, port) = named
            .map_err(failed)?
            .ok_or_else(|| format!("the sentinel {sentinel} knows no service {service:?}"))?;
        let malformed = || format!("the sentinel {sentinel} named {name:.64}:{port} as the master");
        Host::named_by(sentinel, &format!("{name}:{port}")).ok_or_else(malformed)
    }

    async fn ask_name(
        &self,
        sentinel: &Host,
        service: &str,
        login: bool,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<Option<(String, u16)>> {
        let client = self.client_with(sentinel, login, ProtocolVersion::RESP2, 0)?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(config)
            .await?;
        redis::cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(service)
            .query_async(&mut connection)
            .await
    }

    fn client(&self, host: &Host, login: bool) -> RedisResult<Client> {
        let database = match self.topology {
            Topology::Standalone { database } => database,
            Topology::Sentinel { .. } | Topology::Cluster => 0,
        };
        self.client_with(host, login, ProtocolVersion::RESP3, database)
    }

    fn client_with(
        &self,
        host: &Host,
        login: bool,
        protocol: ProtocolVersion,
        database: i64,
    ) -> RedisResult<Client> {
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(protocol)
            .set_db(database)
            .set_skip_set_lib_name();
        if let Some(password) = self.password.as_ref().filter(|_| login) {
            settings = settings.set_password(password.expose_secret());
            if let Some(user) = &self.user {
                settings = settings.set_username(user.expose_secret());
            }
        }
        let probes = socket2::TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(probes);
        let (name, port) = (host.name.clone(), host.port);
        let address = match &self.tls {
            None => ConnectionAddr::Tcp(name, port),
            Some(_) => ConnectionAddr::TcpTls {
                host: name,
                port,
                insecure: false,
                tls_params: None,
            },
        };
        let information: ConnectionInfo = address.into_connection_info()?;
        let information = information
            .set_redis_settings(settings)
            .set_tcp_settings(tcp);
        match &self.tls {
            None => Client::open(information),
            Some(tls) => Client::build_with_tls(
                information,
                TlsCertificates {
                    client_tls: None,
                    root_cert: tls.authorities.clone(),
                },
            ),
        }
    }
}
