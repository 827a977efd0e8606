//! How connections come in: accepted by actix-web's server, over TLS or plain, and spoken to in HTTP/1 or HTTP/2.
//!
//! A client of HTTP/1 that has been quiet for a moment rests: actix-web, which holds 16 KiB of buffers for each connection,
//! is told that it has gone, and meets it anew when it says something. Most connections of a busy site rest.

use std::{
    future::{Future, ready},
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::Addr;
use actix_http::{HttpService, Protocol, Request, Response, error::DispatchError};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_factory, fn_service, map_config,
};
use actix_web::{
    App, HttpResponse,
    body::BoxBody,
    dev::{AppConfig, Server, ServiceResponse},
    http::KeepAlive,
    rt, web,
};
use futures_util::future::LocalBoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{
    actor::Balancer,
    client::Client,
    departure::Present,
    http2,
    rules::Rules,
    serve::answer,
    tls,
    worker::{Port, Worker},
};
use crate::{descriptors, limits, time::Moment};

/// What the entrances of all workers are made from.
#[derive(Clone)]
struct Plan<S> {
    rules: Arc<Rules>,
    balancer: Addr<Balancer>,
    /// Gives a future that ends when the server stops gracefully.
    stopping: S,
    /// Where it listens.
    address: SocketAddr,
    port: Port,
    /// Of the port for TLS.
    acceptor: Option<TlsAcceptor>,
}

/// One port on one worker.
struct Entrance {
    rules: Arc<Rules>,
    acceptor: Option<TlsAcceptor>,
    http1: Http1,
    http2: http2::Application,
    stopping: Box<dyn Fn() -> LocalBoxFuture<'static, ()>>,
}

/// Speaks HTTP/1 with a client until it goes or rests.
type Http1 = Box<dyn Fn(Client, Option<SocketAddr>) -> LocalBoxFuture<'static, ()>>;

/// Starts accepting.
///
/// # Errors
/// What the operating system says.
pub(crate) fn open(
    plain: TcpListener,
    sealed: Option<(TcpListener, Arc<rustls::ServerConfig>)>,
    manager: Option<TcpListener>,
    rules: Arc<Rules>,
    balancer: Addr<Balancer>,
    workers: usize,
    shutdown: Duration,
) -> io::Result<Server> {
    let own = sealed.as_ref().map(|(listener, _)| listener);
    for listener in [&plain].into_iter().chain(own).chain(&manager) {
        watch_clients(listener)?;
    }
    let connections = descriptors::connections(limits::CLIENT_CONNECTIONS, limits::CLIENT_DESCRIPTORS);
    let builder = Server::build()
        .workers(workers)
        .disable_signals()
        .max_concurrent_connections(connections.div_ceil(workers))
        .shutdown_timeout(shutdown.as_secs().max(1));
    let signal = builder.graceful_shutdown_signal();
    let stopping = move || {
        let signal = signal.clone();
        async move { signal.notified().await }
    };
    let plan = Plan { rules, balancer, stopping, address: plain.local_addr()?, port: Port::Users, acceptor: None };
    let users = plan.clone();
    let mut builder = builder.listen("balancer", plain, move || entrance(users.clone()))?;
    if let Some((listener, config)) = sealed {
        let sealed = Plan { address: listener.local_addr()?, acceptor: Some(config.into()), ..plan.clone() };
        builder = builder.listen("balancer-tls", listener, move || entrance(sealed.clone()))?;
    }
    if let Some(listener) = manager {
        let manager = Plan { address: listener.local_addr()?, port: Port::Manager, ..plan };
        builder = builder.listen("balancer-manager", listener, move || entrance(manager.clone()))?;
    }
    Ok(builder.run())
}

/// Lets the kernel look after clients that vanish without a word. Connections have it from their listener (socket(7)), which
/// costs none of them a call.
fn watch_clients(listener: &TcpListener) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(limits::CLIENT_PROBE)
        .with_interval(limits::CLIENT_PROBE_INTERVAL)
        .with_retries(4);
    SockRef::from(listener).set_tcp_keepalive(&keepalive)
}

/// What actix-web's server makes an entrance with, on each worker.
fn entrance<S, F>(
    plan: Plan<S>,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()>
where
    S: Fn() -> F + Clone + 'static,
    F: Future<Output = ()> + 'static,
{
    fn_factory(move || {
        let plan = plan.clone();
        async move {
            let entrance = Rc::new(plan.entrance().await?);
            Ok::<_, ()>(fn_service(move |socket| {
                let entrance = entrance.clone();
                async move {
                    entrance.attend(socket).await;
                    Ok::<_, ()>(())
                }
            }))
        }
    })
}

impl<S, F> Plan<S>
where
    S: Fn() -> F + Clone + 'static,
    F: Future<Output = ()> + 'static,
{
    async fn entrance(self) -> Result<Entrance, ()> {
        let app = Rc::new(application(self.worker()).new_service(()).await?);
        let shared = app.clone();
        let http1 = http1(fn_factory(move || ready(Ok(shared.clone()))), self.stopping.clone(), self.address);
        let http1 = http1.new_service(()).await?;
        let stopping = self.stopping;
        Ok(Entrance {
            rules: self.rules,
            acceptor: self.acceptor,
            http1: Box::new(move |client, peer| {
                let served = http1.call((client, Protocol::Http1, peer));
                // What is wrong with a request is answered; what is wrong with a connection is its end.
                Box::pin(async move { drop(served.await) })
            }),
            http2: for_http2(app),
            stopping: Box::new(move || Box::pin(stopping())),
        })
    }

    fn worker(&self) -> Rc<Worker> {
        let seed = getrandom::u64().unwrap_or_else(|_| Moment::now().0);
        let worker = Rc::new(Worker::new(self.rules.clone(), self.balancer.clone(), self.port, seed));
        rt::spawn(Worker::sweep(Rc::downgrade(&worker)));
        worker
    }
}

impl Entrance {
    async fn attend(&self, socket: TcpStream) {
        let (peer, present) = (socket.peer_addr().ok(), self.rules.departure.present());
        let _ = socket.set_nodelay(true); // fails only on a connection that is gone
        match &self.acceptor {
            None => self.speak_http1(Client::new(socket, present, self.rules.refusals.clone()), peer).await,
            // Boxed: a handshake is large, and a connection that rests is to be small.
            Some(acceptor) => Box::pin(self.attend_sealed(acceptor, socket, peer, present)).await,
        }
    }

    async fn attend_sealed(
        &self,
        acceptor: &TlsAcceptor,
        socket: TcpStream,
        peer: Option<SocketAddr>,
        present: Present,
    ) {
        // Whoever is no TLS client in time is not worth a word: the internet is full of them.
        let Ok(Ok(stream)) = timeout(limits::TLS_HANDSHAKE, acceptor.accept(socket)).await else { return };
        if stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2) {
            let leaving = async {
                tokio::select! {
                    () = (self.stopping)() => {}
                    () = self.rules.departure.is_left() => {}
                }
            };
            Box::pin(http2::serve(stream, peer, self.http2.clone(), leaving)).await;
            drop(present);
        } else {
            self.speak_http1(Client::sealed(stream, present, self.rules.refusals.clone()), peer).await;
        }
    }

    /// Until the client is gone.
    async fn speak_http1(&self, mut client: Client, peer: Option<SocketAddr>) {
        loop {
            let place = client.resting_place();
            (self.http1)(client, peer).await;
            let Some(resting) = place.take() else { return };
            match resting.awake((self.stopping)()).await {
                Some(awake) => client = awake,
                None => return,
            }
        }
    }
}

/// What answers requests of every protocol.
fn application(
    worker: Rc<Worker>,
) -> impl ServiceFactory<Request, Config = (), Response = ServiceResponse<BoxBody>, Error = HttpResponse, InitError = ()>
{
    let app = App::new().app_data(worker).default_service(web::to(answer));
    let app = app.into_factory().map_err(|error: actix_web::Error| error.error_response());
    map_config(app, |()| AppConfig::default())
}

/// HTTP/1 in front of it.
fn http1<A, F>(
    app: A,
    stopping: impl Fn() -> F + Clone + 'static,
    address: SocketAddr,
) -> impl ServiceFactory<
    (Client, Protocol, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
>
where
    A: ServiceFactory<Request, Config = (), Response = ServiceResponse<BoxBody>, Error = HttpResponse, InitError = ()>
        + 'static,
    A::Future: 'static,
    A::Service: 'static,
    <A::Service as Service<Request>>::Future: 'static,
    F: Future<Output = ()> + 'static,
{
    HttpService::build()
        .graceful_shutdown_signal(stopping)
        .keep_alive(KeepAlive::Timeout(limits::CLIENT_KEEP_ALIVE))
        .client_request_timeout(limits::HEAD_TIMEOUT)
        .client_disconnect_timeout(limits::CLIENT_LINGER)
        // A client that closes its side has gone away, as for nginx: its request must not occupy a member.
        .h1_allow_half_closed(false)
        .local_addr(address)
        .on_connect_ext(|client: &Client, data| {
            data.insert(client.pace());
            data.insert(client.scheme());
        })
        .finish(app)
}

/// HTTP/2 in front of the same.
fn for_http2<S>(app: Rc<S>) -> http2::Application
where
    S: Service<Request, Response = ServiceResponse<BoxBody>, Error = HttpResponse> + 'static,
    S::Future: 'static,
{
    Rc::new(move |request| {
        let answered = app.call(request);
        Box::pin(async move { answered.await.map_or_else(Response::from, Response::from) })
    })
}
